"""In a lab, each release as exporter and as client: what they go through when controller, router or exporter fail."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab import Client, Exporter, Lab
from mixes import PAIRS, POWER
from processes import Process, until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(170)]

ECHO = """\
import itertools, sys
from jumpstarter.common.utils import env
with env() as client, client.children["web"].stream() as stream:
    for line in itertools.chain(["held"], sys.stdin):
        stream.send(line.strip().encode())
        print("heard", stream.receive().decode(), flush=True)
"""
"""A command in a shell that keeps one stream to a device open and sends through it each line that it is told."""


@pytest.fixture(scope="module")
def echo() -> Generator[int, None, None]:
    """The port of a TCP service that sends everything back."""
    from conftest import Echo, EchoServer

    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Pair:
    """A client and an exporter of one pair of releases."""

    def __init__(self, lab: Lab, release: Path, exporter: Exporter, client: Client) -> None:
        self.lab, self.release, self.exporter, self.client = lab, release, exporter, client

    def open(self, stack: ExitStack) -> Process:
        """Open a shell with a stream through the router, and wait until it works."""
        command = ("shell", "-n", self.exporter.name, "--duration", "10m", "--", self.release / "python", "-c", ECHO)
        shell = stack.enter_context(self.client.start(self.release, *command))
        return shell

    def works(self) -> None:
        """Show that a new lease can be used."""
        self.exporter.until("AVAILABLE", free=True)
        power = ("--", self.release / "j", "power", "on")
        done = self.client.run(self.release, "shell", "-n", self.exporter.name, "--duration", "1m", *power)
        assert done.code == 0, done


@pytest.fixture(scope="module")
def pairs(lab: Lab, releases: dict[str, Path], echo: int) -> Generator[dict[str, Pair], None, None]:
    """An exporter and a client for every pair of releases."""
    web = {"type": "jumpstarter_driver_network.driver.TcpNetwork", "config": {"host": "127.0.0.1", "port": echo}}
    with ExitStack() as stack:
        found = {}
        for name in PAIRS:
            client, _, release = name.partition("-to-")
            exporter = stack.enter_context(lab.exporter(releases[release], name, {**POWER, "web": web}))
            found[name] = Pair(lab, releases[client], exporter, lab.client(name))
        yield found


def opened(pairs: dict[str, Pair], stack: ExitStack) -> dict[str, Process]:
    """Open a shell in every pair at once, and wait until all streams work."""
    shells = {name: pair.open(stack) for name, pair in pairs.items()}
    for shell in shells.values():
        shell.until(lambda shell=shell: "heard held" in shell.output, "the stream works")
    return shells


def still_works(shells: dict[str, Process], word: str) -> None:
    """Show that open streams carry on."""
    for shell in shells.values():
        shell.say(word)
    for name, shell in shells.items():
        shell.until(lambda shell=shell: f"heard {word}" in shell.output, f"the stream of {name} carries {word}", 10)


@contextmanager
def held(port: int) -> Generator[None, None, None]:
    """Accept connections on a port and leave them waiting, as somebody does who keeps it for the next controller."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: not listener.bind(("127.0.0.1", port)), "the port is free")
        listener.listen(1024)
        yield


def test_R07_idle_exporters_outlast_a_controller_that_is_away_while_its_port_is_held(
    lab: Lab, pairs: dict[str, Pair]
) -> None:
    # `jmp run` of 0.9 ends when its port refuses for ten seconds: it gives up five times, 2 seconds each.
    lab.stop()
    with held(lab.port):
        time.sleep(10)  # what is tested is that they outlast this
    lab.start()

    for pair in pairs.values():
        pair.works()
        assert "rapid failure" not in str(pair.exporter.process)


def test_X08_leases_and_sessions_go_on_when_the_controller_starts_again(lab: Lab, pairs: dict[str, Pair]) -> None:
    with ExitStack() as stack:
        shells = opened(pairs, stack)
        before = {name: pair.exporter.state.state.lease for name, pair in pairs.items()}
        lab.stop(signal.SIGKILL)
        lab.start()

        for name, pair in pairs.items():
            pair.exporter.until("LEASE_READY", free=False)
            assert pair.exporter.state.state.lease == before[name]
        for name, pair in pairs.items():
            power = ("--", pair.release / "j", "power", "on")
            used = pair.client.run(pair.release, "shell", "--lease", before[name], *power)
            assert used.code == 0, f"{name}: {used}"
        # The router went with the controller, and the streams with it; nothing hangs because of that.
        for shell in shells.values():
            shell.wait(40)
            assert "Traceback" not in shell.output, shell
    for pair in pairs.values():
        pair.works()


def test_R13_a_killed_exporter_takes_up_its_lease_when_it_is_back(lab: Lab, pairs: dict[str, Pair]) -> None:
    names = {}
    for name, pair in pairs.items():
        wanted = ("-n", name, "--duration", "10m", "--lease-id", f"r13-{name}")
        names[name] = pair.client.do(pair.release, "create", "lease", *wanted, "-o", "name").rpartition("/")[2]
        pair.exporter.until("LEASE_READY", free=False)
        pair.exporter.kill()
    for pair in pairs.values():
        pair.exporter.start()

    for name, pair in pairs.items():
        power = ("--", pair.release / "j", "power", "on")
        until(lambda pair=pair: pair.exporter.status == "LEASE_READY", f"{name} has its lease again", 60)
        used = pair.client.run(pair.release, "shell", "--lease", f"r13-{name}", *power)
        assert used.code == 0, f"{name}: {used}"
        pair.client.do(pair.release, "delete", "leases", f"r13-{name}")
        pair.works()


@pytest.mark.slow
def test_R06_idle_peers_stay_connected(lab: Lab, pairs: dict[str, Pair]) -> None:
    # By default gRPC servers throw out who sends pings without data for a minute.
    with ExitStack() as stack:
        shells = opened(pairs, stack)
        before = {name: len(pair.exporter.log) for name, pair in pairs.items()}

        time.sleep(75)

        still_works(shells, "later")
        for pair in pairs.values():
            assert pair.exporter.status == "LEASE_READY"
        for shell in shells.values():
            assert shell.wait(40) == 0, shell
    for name, pair in pairs.items():
        pair.works()
        assert "UNAVAILABLE" not in pair.exporter.log[before[name] :], name
