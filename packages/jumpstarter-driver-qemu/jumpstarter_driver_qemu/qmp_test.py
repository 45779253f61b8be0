"""The QMP client, against QEMU itself and against peers that break the rules."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from jumpstarter_testbench.requirements import program

from jumpstarter_driver_qemu.qmp import QmpClient, QmpClosed, QmpError

BOUND = 10.0
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}


@contextmanager
def qemu(**callbacks: Any) -> Iterator[QmpClient]:
    """A client of a QEMU without a machine."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                program("qemu-system-x86_64"),
                *("-machine", "none", "-nodefaults", "-display", "none", "-S"),
                *("-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"),
            ],
            pass_fds=(theirs.fileno(),),
        )
    client = QmpClient(ours, **callbacks)
    try:
        yield client
    finally:
        process.terminate()
        process.wait(BOUND)
        client.close()


@contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[QmpClient]:
    """A client of a peer that behaves as given."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            behave(theirs)

    thread = threading.Thread(target=run)
    client = QmpClient(ours)
    thread.start()
    try:
        yield client
    finally:
        client.close()
        thread.join(BOUND)
        assert not thread.is_alive()


def say(connection: socket.socket, message: Any) -> None:
    """Send one message."""
    connection.sendall(json.dumps(message).encode() + b"\r\n")


@pytest.mark.device
@pytest.mark.need("qemu-x86_64")
class TestQemu:
    """A real QEMU."""

    def test_greeting_and_commands(self) -> None:
        with qemu() as client:
            assert client.start(BOUND)["version"]["qemu"]["major"] >= 4
            assert client.execute("query-status")["status"] in ("prelaunch", "paused")
            assert "QEMU" in client.human("info version") or client.human("info version").strip()

    def test_refused_command_says_why(self) -> None:
        with qemu() as client:
            client.start(BOUND)
            with pytest.raises(
                QmpError, match="QEMU refused no-such-command: The command no-such-command has not been"
            ):
                client.execute("no-such-command")
            # and the connection goes on
            client.execute("query-status")

    def test_events_and_the_end_are_reported(self) -> None:
        events: list[str] = []
        ended = threading.Event()
        with qemu(on_event=lambda name, data: events.append(name), on_closed=ended.set) as client:
            client.start(BOUND)
            client.execute("quit")
            assert ended.wait(BOUND)
            assert "SHUTDOWN" in events
            with pytest.raises(QmpClosed, match="QEMU closed the connection"):
                client.execute("query-status")

    def test_many_threads_get_their_own_answers(self) -> None:
        with qemu() as client:
            client.start(BOUND)
            results: list[bool] = []

            def ask(number: int) -> None:
                for _ in range(20):
                    if number % 2:
                        results.append("status" in client.execute("query-status"))
                    else:
                        results.append("major" in client.execute("query-version")["qemu"])

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(BOUND)
            assert results == [True] * 80


def test_peer_that_says_nothing_is_given_up() -> None:
    with (
        peer(lambda connection: [connection.recv(1)]) as client,
        pytest.raises(TimeoutError, match=r"no QMP greeting within 0\.1 s"),
    ):
        client.start(0.1)


def test_peer_that_hangs_up_is_reported() -> None:
    with peer(lambda connection: None) as client, pytest.raises(QmpClosed, match="QEMU closed the connection"):
        client.start(BOUND)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", b"[1]\n", b"\xff\xff\n"])
def test_peer_that_speaks_something_else_is_reported(garbage: bytes) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(garbage)
        connection.recv(1)

    with peer(behave) as client, pytest.raises(QmpClosed, match="no QMP"):
        client.start(BOUND)


def test_command_without_an_answer_is_given_up() -> None:
    def behave(connection: socket.socket) -> None:
        say(connection, GREETING)
        request = json.loads(connection.recv(4096))
        say(connection, {"return": {}, "id": request["id"]})
        connection.recv(4096)
        connection.recv(1)

    with peer(behave) as client:
        client.start(BOUND)
        with pytest.raises(TimeoutError, match=r"QEMU did not answer query-status within 0\.1 s"):
            client.execute("query-status", timeout=0.1)


def test_answers_in_pieces_are_put_together() -> None:
    def behave(connection: socket.socket) -> None:
        text = json.dumps(GREETING).encode() + b"\n"
        for position in range(0, len(text), 7):
            connection.sendall(text[position : position + 7])
        request = json.loads(connection.recv(4096))
        say(connection, {"event": "RESET", "data": {}})
        say(connection, {"return": {}, "id": 999})
        say(connection, {"return": {}, "id": request["id"]})
        connection.recv(1)

    with peer(behave) as client:
        assert client.start(BOUND) == GREETING["QMP"]
