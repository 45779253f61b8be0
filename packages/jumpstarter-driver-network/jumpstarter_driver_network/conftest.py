"""Targets for the tests of network drivers: real sockets, served by threads of the test process."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest


class ThreadingUnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A Unix stream server with a thread per connection."""


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets, and ends when the other side does."""

    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class Upper(socketserver.BaseRequestHandler):
    """Answers each datagram with its text in capitals."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data.upper(), self.client_address)


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[Any]:
    """Run a server in a thread for the length of the block."""
    if hasattr(server, "daemon_threads"):
        server.daemon_threads = True
        server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class UdpServer(socketserver.ThreadingUDPServer):
    """A UDP server that takes datagrams of any size."""

    max_packet_size = 65535


class BigBacklogServer(socketserver.ThreadingTCPServer):
    """A TCP server that many clients may reach at once."""

    request_queue_size = 512


@pytest.fixture(params=["direct", "grpc"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: with streams beside gRPC, as on one machine, and inside it, as through a router."""
    if request.param == "grpc":
        monkeypatch.setattr("jumpstarter.client.client.direct_streams_available", lambda _: False)
    return str(request.param)


@pytest.fixture
def tcp_target() -> Iterator[Callable[..., int]]:
    """Start a TCP server with a handler (echo by default) and return its port."""
    with ExitStack() as stack:

        def start(handler: Callable[[socket.socket], None] | None = None) -> int:
            kind: Any = Echo
            if handler is not None:

                class Called(socketserver.BaseRequestHandler):
                    def handle(self) -> None:
                        handler(self.request)

                kind = Called
            server = stack.enter_context(served(BigBacklogServer(("127.0.0.1", 0), kind)))
            return int(server.server_address[1])

        yield start


@pytest.fixture
def udp_target() -> Iterator[int]:
    """A UDP server that answers in capitals; its port."""
    with served(UdpServer(("127.0.0.1", 0), Upper)) as server:
        yield server.server_address[1]


@pytest.fixture
def unix_target(tmp_path: Path) -> Iterator[Path]:
    """A Unix echo server; its path."""
    path = tmp_path / "target"
    with served(ThreadingUnixServer(str(path), Echo)):
        yield path


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A TCP port that refuses connections, because it is bound but nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
