"""What all tests between releases share: the releases, and devices that a real exporter can be given."""

from __future__ import annotations

import os
import pty
import socketserver
import sys
import threading
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import peer
from lab import Lab


@pytest.fixture(scope="session")
def releases() -> dict[str, Path]:
    """The bin folders of both releases."""
    return {"ours": Path(sys.executable).parent, "published": peer.install()}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lab, None, None]:
    """A running controller."""
    with Lab(tmp_path_factory.mktemp("lab")).running() as running:
        yield running


@contextmanager
def loud_port() -> Generator[str, None, None]:
    """A serial port whose other end says everything again in capital letters; yields its path."""
    near, far = pty.openpty()
    tty.setraw(near)
    tty.setraw(far)  # stays open here, so that the port survives those who open and close it

    def answer() -> None:
        try:
            while data := os.read(near, 4096):
                os.write(near, data.upper())
        except OSError:
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield os.ttyname(far)
    finally:
        os.close(far)
        thread.join(5)
        os.close(near)


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back until the other side has finished."""

    def handle(self) -> None:
        """Serve one connection."""
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    """A TCP echo service on a free port of loopback."""

    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[[], dict[str, Any]], None, None]:
    """Makes the config of the drivers of one exporter with real devices."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        server = stack.enter_context(EchoServer(("127.0.0.1", 0), Echo))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)

        def export() -> dict[str, Any]:
            root = tmp_path_factory.mktemp("storage")
            serial = {"url": stack.enter_context(loud_port())}
            host, port = server.server_address[:2]
            return {
                "power": {"type": "jumpstarter_driver_power.driver.MockPower"},
                "serial": {"type": "jumpstarter_driver_pyserial.driver.PySerial", "config": serial},
                "storage": {
                    "type": "jumpstarter_driver_opendal.driver.Opendal",
                    "config": {"scheme": "fs", "kwargs": {"root": str(root)}},
                },
                "flasher": {"type": "jumpstarter_driver_opendal.driver.MockFlasher"},
                "web": {
                    "type": "jumpstarter_driver_network.driver.TcpNetwork",
                    "config": {"host": host, "port": port},
                },
                "probe": {"type": "interop_probe.Probe", "config": {"greeting": "hello"}},
            }

        yield export


@pytest.fixture(scope="session")
def pdus(tmp_path_factory: pytest.TempPathFactory) -> Generator[int, None, None]:
    """The port of an SNMP agent with power distribution units."""
    import socket

    from jumpstarter_driver_snmp.conftest import agent_command, agent_environment, answers
    from jumpstarter_testbench.process import running_on_free_port
    from jumpstarter_testbench.requirements import need

    need("snmpd")
    folder = tmp_path_factory.mktemp("pdus")
    with running_on_free_port(
        lambda port: agent_command(folder, port),
        log=folder / "log",
        ready=answers,
        kind=socket.SOCK_DGRAM,
        env=agent_environment(folder),
    ) as port:
        yield port
