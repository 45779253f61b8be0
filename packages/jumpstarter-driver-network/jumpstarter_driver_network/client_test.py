"""The `j` commands of network drivers, in process where they end by themselves and as processes where they don't."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, exportstream

from jumpstarter_driver_network.driver import (
    DbusNetwork,
    EchoNetwork,
    TcpNetwork,
    UdpNetwork,
    WebsocketNetwork,
)

COMMANDS = {"forward-tcp", "forward-udp", "forward-unix", "novnc", "address"}


class OldNetwork(Driver):
    """A network driver of a package that knows no address and no label."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter_driver_network.client.NetworkClient"

    @exportstream
    def connect(self) -> Any:
        return EchoNetwork().connect()


def run(client: Any, *arguments: str) -> Any:
    return CliRunner().invoke(client.cli(), arguments)


PROGRAM = """
import sys
from jumpstarter.common.utils import serve
from jumpstarter_driver_network.driver import TcpNetwork, UdpNetwork
kind, port, *arguments = sys.argv[1:]
with serve({"tcp": TcpNetwork, "udp": UdpNetwork}[kind](host="127.0.0.1", port=int(port))) as client:
    client.cli()(arguments)
"""


@contextmanager
def command(*arguments: Any, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command of a network client that prints a line and goes on; the process and the line."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; the exit status and what is printed after it."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_commands_of_a_network_driver() -> None:
    with serve(EchoNetwork()) as client:
        assert set(client.cli().commands) == COMMANDS


def test_forward_tcp_prints_its_address_and_ends_quietly_when_interrupted(tcp_target: Callable[..., int]) -> None:
    with command("tcp", tcp_target(), "forward-tcp", "--address", "127.0.0.1", "0") as (process, line):
        host, port = line.split(":")
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
        status, output = interrupted(process)

    assert host == "127.0.0.1"
    assert status == 1  # click's own answer to an interrupt; `j` turns it into 130
    assert output.strip() == "Aborted!"


def test_forward_udp_prints_its_address(udp_target: int) -> None:
    with (
        command("udp", udp_target, "forward-udp", "--address", "127.0.0.1", "0") as (process, line),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(10)
        sock.connect(("127.0.0.1", int(line.split(":")[1])))
        sock.send(b"hello")
        assert sock.recv(10) == b"HELLO"
        assert interrupted(process)[1].strip() == "Aborted!"


@pytest.mark.parametrize("given", [True, False])
def test_forward_unix_prints_its_path(tcp_target: Callable[..., int], tmp_path: Path, given: bool) -> None:
    arguments = [str(tmp_path / "chosen")] if given else []
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with command("tcp", tcp_target(), "forward-unix", *arguments, env=environment) as (process, line):
        assert line.startswith(str(tmp_path))
        assert not given or line == arguments[0]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(line)
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
        interrupted(process)

    assert list(tmp_path.iterdir()) == []


def test_novnc_prints_a_url_that_answers(tcp_target: Callable[..., int]) -> None:
    import urllib.request

    with command("tcp", tcp_target(), "novnc") as (process, line):
        assert urllib.request.urlopen(line, timeout=10).status == 200
        assert interrupted(process)[1].strip() == "Aborted!"


TALK = (
    "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); s.sendall(b'hi'); "
    "print(s.recv(9), sys.argv[3]); sys.exit(7)"
)


def test_forward_runs_a_command_and_exits_with_its_status(tcp_target: Callable[..., int]) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, "tcp", str(tcp_target()), "forward-tcp", "--address", "127.0.0.1", "0"),
            *("--", sys.executable, "-c", TALK, "{host}", "{port}", "at {address}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("b'hi' at 127.0.0.1:")


def test_command_of_a_forward_that_does_not_exist_is_said() -> None:
    with serve(EchoNetwork()) as client:
        result = run(client, "forward-tcp", "0", "--", "no-such-program")

    assert result.exit_code == 1
    assert result.output == "Error: can't run no-such-program: No such file or directory\n"


def test_options_may_follow_the_port() -> None:
    with serve(EchoNetwork()) as client:
        assert run(client, "forward-tcp", "0", "--address", "127.0.0.1", "--", "true").exit_code == 0


def test_status_of_a_command_that_a_signal_ended() -> None:
    with serve(EchoNetwork()) as client:
        assert run(client, "forward-unix", "-", "--", "sh", "-c", "kill -TERM $$").exit_code == 143


def test_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken, serve(EchoNetwork()) as client:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(client, "forward-tcp", "--address", "127.0.0.1", str(port))

    assert result.exit_code == 1
    assert f"can't listen on 127.0.0.1 port {port}" in result.output


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_impossible_port_is_a_usage_error(port: str) -> None:
    with serve(EchoNetwork()) as client:
        assert run(client, "forward-tcp", port).exit_code == 2


def test_datagrams_and_byte_streams_are_not_mixed_up() -> None:
    with serve(UdpNetwork(host="127.0.0.1", port=1)) as client:
        for arguments in (["forward-tcp", "0"], ["forward-unix"]):
            result = run(client, *arguments)
            assert result.exit_code == 2
            assert "this device speaks datagrams" in result.output
            assert "use forward-udp" in result.output
    with serve(TcpNetwork(host="127.0.0.1", port=1)) as client:
        result = run(client, "forward-udp", "0")
        assert result.exit_code == 2
        assert "use forward-tcp" in result.output


def test_forwards_work_with_drivers_that_say_nothing_about_their_streams() -> None:
    with serve(OldNetwork()) as client:
        assert run(client, "forward-tcp", "0", "true").exit_code == 0
        assert run(client, "forward-udp", "0", "true").exit_code == 0


@pytest.mark.parametrize(
    ("driver", "options", "output"),
    [
        (lambda: TcpNetwork(host="192.0.2.1", port=22), [], "192.0.2.1:22"),
        (lambda: TcpNetwork(host="192.0.2.1", port=22), ["--host"], "192.0.2.1"),
        (lambda: TcpNetwork(host="192.0.2.1", port=22), ["--port"], "22"),
        (lambda: TcpNetwork(host="192.0.2.1", port=22), ["--host", "--port"], "192.0.2.1:22"),
        (lambda: UdpNetwork(host="2001:db8::1", port=53), [], "[2001:db8::1]:53"),
        (lambda: UdpNetwork(host="2001:db8::1", port=53), ["--host"], "2001:db8::1"),
        (lambda: WebsocketNetwork(url="ws://h:80/console"), [], "h:80/console"),
        (lambda: WebsocketNetwork(url="ws://h:80/console"), ["--port"], "80"),
    ],
)
def test_address_prints_what_is_asked_for(driver: Any, options: list[str], output: str) -> None:
    with serve(driver()) as client:
        result = run(client, "address", *options)

    assert (result.exit_code, result.output) == (0, f"{output}\n")


def test_address_that_is_kept_from_clients_is_said() -> None:
    with serve(TcpNetwork(host="h", port=1, enable_address=False)) as client:
        result = run(client, "address")

    assert result.exit_code == 1
    assert "enable_address mode is not true" in result.output


def test_address_of_a_driver_without_one_is_said() -> None:
    with serve(OldNetwork()) as client:
        result = run(client, "address")

    assert result.exit_code == 1
    assert "update the exporter" in result.output


def test_bus_has_the_commands_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    with serve(DbusNetwork(kind="system")) as client:
        assert client.kind == "system"
        assert set(client.cli().commands) == COMMANDS


@pytest.mark.parametrize(
    "module",
    [
        "jumpstarter_driver_network.client",
        "jumpstarter_driver_network.adapters",
        "jumpstarter_driver_power.client",
        "jumpstarter_driver_composite.client",
    ],
)
def test_client_modules_import_no_heavy_library(module: str) -> None:
    heavy = (
        "fabric",
        "paramiko",
        "invoke",
        "pexpect",
        "aiohttp",
        "websockets",
        "wsproto",
        "rich",
        "cryptography",
        "pydantic",
    )
    script = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == []
