"""Forwarded ports and sockets, end to end: data, half-close, refusals, many connections, and taken ports."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.common.utils import serve

from jumpstarter_driver_network import udp
from jumpstarter_driver_network.adapters import TcpPortforwardAdapter, UdpPortforwardAdapter, UnixPortforwardAdapter
from jumpstarter_driver_network.driver import EchoNetwork, TcpNetwork, UdpNetwork, UnixNetwork

pytestmark = pytest.mark.usefixtures("either_path")


@contextmanager
def connected(address: Any) -> Iterator[socket.socket]:
    """A connection to a TCP address or a socket path, whose operations take 20 s at most."""
    family = socket.AF_UNIX if isinstance(address, (str, Path)) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(str(address) if family == socket.AF_UNIX else address[:2])
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """Read until the other end has finished sending."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def round_trip(address: Any, data: bytes) -> bytes:
    """Send `data`, finish sending, and return all that comes back."""
    with connected(address) as sock:
        writer = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        writer.start()
        answer = read_all(sock)
        writer.join(20)
        return answer


def test_tcp_forward_carries_both_directions_and_their_ends(tcp_target: Callable[..., int]) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client,
        TcpPortforwardAdapter(client=client) as address,
    ):
        assert address[0] == "127.0.0.1"
        assert round_trip(address, b"hello") == b"hello"


def test_unix_forward_carries_both_directions_and_their_ends(unix_target: Path) -> None:
    with serve(UnixNetwork(path=str(unix_target))) as client, UnixPortforwardAdapter(client=client) as path:
        assert isinstance(path, Path)
        assert round_trip(path, b"hello") == b"hello"


def test_unix_forward_at_a_chosen_path_is_for_this_user_only(tmp_path: Path) -> None:
    chosen = tmp_path / "here"
    with serve(EchoNetwork()) as client:
        with UnixPortforwardAdapter(client=client, path=chosen) as path:
            assert Path(path) == chosen
            assert stat.S_IMODE(chosen.stat().st_mode) == 0o600
        assert not chosen.exists()


def test_bulk_data_arrives_unchanged_in_both_directions_at_once(tcp_target: Callable[..., int]) -> None:
    data = os.urandom(1 << 20) * 32
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client,
        TcpPortforwardAdapter(client=client) as address,
    ):
        assert hashlib.sha256(round_trip(address, data)).digest() == hashlib.sha256(data).digest()


def test_200_connections_at_once_are_kept_apart(tcp_target: Callable[..., int]) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client,
        TcpPortforwardAdapter(client=client) as address,
        ThreadPoolExecutor(200) as pool,
    ):
        everybody = threading.Barrier(200)

        def talk(number: int) -> bool:
            with connected(address) as sock:
                sock.sendall(b"%d\n" % number)
                line = sock.makefile("rb").readline()
                everybody.wait(20)
                return line == b"%d\n" % number

        assert all(pool.map(talk, range(200)))


def test_connection_to_a_target_that_refuses_is_closed_and_logged(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=closed_port)) as client,
        TcpPortforwardAdapter(client=client) as address,
        connected(address) as sock,
    ):
        assert sock.recv(10) == b""

    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any(f"can't connect to TCP 127.0.0.1:{closed_port}" in text for text in warnings)


def test_failed_connection_leaves_the_others_alone(tcp_target: Callable[..., int]) -> None:
    failing = threading.Event()

    def once(conn: socket.socket) -> None:
        if failing.is_set():
            # A reset instead of an orderly end.
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        while data := conn.recv(1000):
            conn.sendall(data)

    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target(once))) as client,
        TcpPortforwardAdapter(client=client) as address,
        connected(address) as good,
    ):
        good.sendall(b"one")
        assert good.recv(10) == b"one"
        failing.set()
        with connected(address) as bad:
            try:
                assert bad.recv(10) == b""
            except ConnectionError:
                pass
        failing.clear()
        good.sendall(b"two")
        assert good.recv(10) == b"two"
        assert round_trip(address, b"three") == b"three"


def test_local_hang_up_reaches_the_target(tcp_target: Callable[..., int]) -> None:
    hung_up = threading.Event()

    def wait(conn: socket.socket) -> None:
        while conn.recv(100):
            pass
        hung_up.set()

    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target(wait))) as client,
        TcpPortforwardAdapter(client=client) as address,
    ):
        with connected(address) as sock:
            sock.sendall(b"x")
        assert hung_up.wait(5)


def test_open_connections_end_with_the_forward(tcp_target: Callable[..., int]) -> None:
    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client:
        with TcpPortforwardAdapter(client=client) as address:
            sock = socket.create_connection(address, 20)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        with sock:
            try:
                assert sock.recv(1) == b""
            except ConnectionError:
                pass


def test_port_that_is_taken_is_an_error_that_names_it() -> None:
    with (
        serve(EchoNetwork()) as client,
        TcpPortforwardAdapter(client=client) as address,
        pytest.raises(OSError, match=f"can't listen on 127.0.0.1 port {address[1]}"),
        TcpPortforwardAdapter(client=client, local_port=address[1]),
    ):
        pass


def test_error_of_the_body_comes_out_as_it_is() -> None:
    with serve(EchoNetwork()) as client:
        for error in (ValueError("x"), KeyboardInterrupt(), SystemExit(3)):
            with pytest.raises(type(error)) as caught, TcpPortforwardAdapter(client=client):
                raise error
            assert caught.value is error
        with client.stream() as stream:
            stream.send(b"still there")
            assert stream.receive() == b"still there"


def test_udp_forward_keeps_datagrams_and_senders_apart(udp_target: int) -> None:
    with (
        serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client,
        UdpPortforwardAdapter(client=client) as address,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.settimeout(10)
            sock.connect(address)
        for sock, text in ((one, b"one"), (two, b"two"), (one, b""), (two, b"y" * 20000)):
            sock.send(text)
            assert sock.recv(65535) == text.upper()


def test_udp_forward_serves_a_bounded_number_of_senders(udp_target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_SENDERS", 1)
    with (
        serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client,
        UdpPortforwardAdapter(client=client) as address,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.settimeout(10)
            sock.connect(address)
        one.send(b"one")
        assert one.recv(100) == b"ONE"
        two.send(b"two")
        one.send(b"three")
        assert one.recv(100) == b"THREE"
        two.setblocking(False)
        with pytest.raises(BlockingIOError):
            two.recv(100)


def test_udp_sender_is_forgotten_when_idle(udp_target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(udp, "MAX_SENDERS", 1)
    with (
        serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client,
        UdpPortforwardAdapter(client=client) as address,
    ):
        # With room for one sender, the second can be served only once the first was forgotten.
        for _ in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.1)
                sock.connect(address)
                for _ in range(100):
                    sock.send(b"x")
                    try:
                        assert sock.recv(100) == b"X"
                        break
                    except TimeoutError:
                        continue
                else:
                    pytest.fail("the sender was never served")


def test_udp_port_that_is_taken_is_an_error_that_names_it() -> None:
    with (
        serve(EchoNetwork()) as client,
        UdpPortforwardAdapter(client=client) as address,
        pytest.raises(OSError, match=f"can't listen on UDP 127.0.0.1 port {address[1]}"),
        UdpPortforwardAdapter(client=client, local_port=address[1]),
    ):
        pass
