"""Cameras for the tests: HTTP servers on loopback that answer exactly the bytes that a test gives them."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from PIL import Image


def picture(colour: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class RawCamera:
    """A server that sends bytes; how they are cut into packets and framed is the business of the test."""

    respond: Callable[[bytes], Iterable[bytes]]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    url: str = ""


@pytest.fixture
def raw_camera() -> Iterator[Callable[[Callable[[bytes], Iterable[bytes]]], RawCamera]]:
    """Start a camera that answers the head of a request with the pieces that a function gives; a thread per viewer."""
    servers: list[socket.socket] = []
    threads: list[threading.Thread] = []
    viewers: list[socket.socket] = []
    over = threading.Event()

    def start(respond: Callable[[bytes], Iterable[bytes]]) -> RawCamera:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        camera = RawCamera(respond, url=f"http://127.0.0.1:{server.getsockname()[1]}")

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
                    head += data
                camera.requests.append(head)
                for piece in camera.respond(head):
                    if over.is_set():
                        return
                    connection.sendall(piece)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    camera.connections += 1
                    viewers.append(connection)
                    threads.append(threading.Thread(target=serve, args=[connection], daemon=True))
                    threads[-1].start()

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        return camera

    yield start
    over.set()
    for server in servers:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
    for viewer in viewers:
        with suppress(OSError):
            viewer.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
