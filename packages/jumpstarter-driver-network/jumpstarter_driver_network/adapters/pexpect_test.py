"""Consoles through pexpect, on real programs behind a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable

import pexpect
import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve

from jumpstarter_driver_network.adapters import PexpectAdapter
from jumpstarter_driver_network.driver import TcpNetwork

pytestmark = pytest.mark.usefixtures("either_path")


def shell(conn: socket.socket) -> None:
    """Run a shell with the connection as its terminal line."""
    subprocess.run(
        ["sh"], stdin=conn.fileno(), stdout=conn.fileno(), stderr=subprocess.STDOUT, timeout=60, env={"PS1": "$ "}
    )


def test_commands_of_a_shell_are_typed_and_answered(tcp_target: Callable[..., int]) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target(shell))) as client,
        PexpectAdapter(client=client) as console,
    ):
        console.sendline("echo $((6 * 7))")
        console.expect_exact("42", timeout=10)
        console.sendline("exit")
        console.expect(pexpect.EOF, timeout=10)


def test_each_context_is_a_fresh_connection(tcp_target: Callable[..., int]) -> None:
    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(shell))) as client:
        for number in range(3):
            with PexpectAdapter(client=client) as console:
                console.sendline(f"echo ${{seen:-fresh}}{number}; seen=stale")
                console.expect_exact(f"fresh{number}", timeout=10)


def test_timeout_comes_out_as_pexpect_raised_it(tcp_target: Callable[..., int]) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target(shell))) as client,
        pytest.raises(pexpect.TIMEOUT),
        PexpectAdapter(client=client) as console,
    ):
        console.expect_exact("never printed", timeout=0.05)


def test_last_line_before_the_end_still_arrives(tcp_target: Callable[..., int]) -> None:
    received = b""
    ended = threading.Event()

    def keep(conn: socket.socket) -> None:
        nonlocal received
        while data := conn.recv(1 << 16):
            received += data
        ended.set()

    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(keep))) as client:
        with PexpectAdapter(client=client) as console:
            console.send(b"x" * 300000)
            console.sendline("reboot")
        assert ended.wait(5)

    assert received == b"x" * 300000 + b"reboot" + os.linesep.encode()


def test_leaving_a_silent_console_takes_no_time(tcp_target: Callable[..., int]) -> None:
    done = threading.Event()
    try:
        with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(lambda _: done.wait(30)))) as client:
            start = time.monotonic()
            with PexpectAdapter(client=client) as console:
                console.sendline("x")
            assert time.monotonic() - start < 1
    finally:
        done.set()


def test_target_that_refuses_is_an_error_on_entering(closed_port: int) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=closed_port)) as client,
        pytest.raises(DriverError, match="can't connect"),
        PexpectAdapter(client=client),
    ):
        pass


def test_console_closed_by_its_user_leaves_foreign_descriptors_alone(tcp_target: Callable[..., int]) -> None:
    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client:
        with PexpectAdapter(client=client) as console:
            number = console.child_fd
            console.close()
            # The number is free again and goes to the next file that anybody opens.
            replacement = os.dup2(os.open(os.devnull, os.O_RDONLY), number)
        os.fstat(replacement)
        os.close(replacement)
