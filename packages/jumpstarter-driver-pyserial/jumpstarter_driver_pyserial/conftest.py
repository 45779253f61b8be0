"""Real serial ports for the tests: pseudo-terminals of socat, and an RFC 2217 server."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import serial
import serial.rfc2217
from jumpstarter_testbench.requirements import need, program

BOUND = 10.0


@dataclass
class Line:
    """A serial line: the path that a driver opens, and the device at its other end."""

    path: str
    device: int
    """Descriptor of the other end."""
    socat: subprocess.Popen[bytes]

    def write(self, data: bytes) -> None:
        """Let the device say something."""
        os.write(self.device, data)

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes that the device got."""
        data = b""
        deadline = time.monotonic() + BOUND
        while len(data) < count:
            assert time.monotonic() < deadline, f"the device got only {data!r}"
            with suppress(BlockingIOError):
                data += os.read(self.device, count - len(data))
                continue
            time.sleep(0.005)
        return data

    def hang_up(self) -> None:
        """Unplug the line."""
        self.socat.terminate()
        self.socat.wait(BOUND)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A pair of pseudo-terminals that socat connects."""
    need("socat")
    ends = [tmp_path / "port", tmp_path / "device"]
    socat = subprocess.Popen([program("socat"), *(f"pty,raw,echo=0,link={end}" for end in ends)])
    device = -1
    try:
        deadline = time.monotonic() + BOUND
        while not all(end.exists() for end in ends):
            assert time.monotonic() < deadline, "socat made no pseudo-terminals"
            assert socat.poll() is None
            time.sleep(0.005)
        device = os.open(ends[1], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        yield Line(path=str(ends[0]), device=device, socat=socat)
    finally:
        if device >= 0:
            os.close(device)
        socat.terminate()
        socat.wait(BOUND)


class Rfc2217Server:
    """Serves one pyserial port by RFC 2217 on a loopback port, one client at a time."""

    def __init__(self) -> None:
        self.port = serial.serial_for_url("loop://", timeout=0.05)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = False
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL that a client opens."""
        return f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"

    def drop_client(self) -> None:
        """Cut the connection of the client."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop serving."""
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(BOUND)
        assert not self._thread.is_alive()
        self._listener.close()
        self.port.close()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with self._connection as connection:
                self._serve_client(connection)

    def _serve_client(self, connection: socket.socket) -> None:
        lock = threading.Lock()
        done = threading.Event()

        class Output:
            """What the port manager writes to."""

            def write(self, data: bytes) -> None:
                with lock, suppress(OSError):
                    connection.sendall(data)

        output = Output()
        manager = serial.rfc2217.PortManager(self.port, output)

        def to_network() -> None:
            while not done.is_set():
                if data := self.port.read(self.port.in_waiting or 1):
                    output.write(b"".join(manager.escape(data)))

        writer = threading.Thread(target=to_network)
        writer.start()
        try:
            while data := connection.recv(1024):
                self.port.write(b"".join(manager.filter(data)))
        except OSError:
            pass
        finally:
            done.set()
            writer.join(BOUND)


@pytest.fixture
def rfc2217() -> Iterator[Rfc2217Server]:
    """A server whose port sends back what it is sent."""
    server = Rfc2217Server()
    try:
        yield server
    finally:
        server.close()
