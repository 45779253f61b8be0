"""An emulated ESP32 behind a pseudo-terminal, and behind an RFC 2217 server, which carries the modem lines too."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import tty
from collections.abc import Iterator
from typing import Any

import pytest
import serial.rfc2217

from .rom import Esp32

BOUND = 30.0


class NetworkPort:
    """What pyserial's RFC 2217 server takes for a serial port, with the chip at its other end."""

    baudrate, bytesize, parity, stopbits, timeout = 115200, 8, "N", 1, 0.02
    xonxoff = rtscts = dsrdtr = break_condition = False
    cts = dsr = cd = True
    ri = False
    in_waiting = 0

    def __init__(self, chip: Esp32) -> None:
        self._chip = chip
        self._dtr = self._rts = False

    @property
    def dtr(self) -> bool:
        return self._dtr

    @dtr.setter
    def dtr(self, value: bool) -> None:
        self._dtr = value
        self._chip.lines(self._dtr, self._rts)

    @property
    def rts(self) -> bool:
        return self._rts

    @rts.setter
    def rts(self, value: bool) -> None:
        self._rts = value
        self._chip.lines(self._dtr, self._rts)

    def write(self, data: bytes) -> None:
        self._chip.feed(data)

    def reset_input_buffer(self) -> None: ...

    def reset_output_buffer(self) -> None: ...


class Board:
    """A chip and how it is reached."""

    def __init__(self, url: str, chip: Esp32) -> None:
        self.url, self.chip = url, chip


class _Server:
    """An RFC 2217 server for one client after another."""

    def __init__(self) -> None:
        self.chip = Esp32(self._from_chip)
        self._port = NetworkPort(self.chip)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._manager: Any = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Send to the client, for PortManager."""
        with self._lock, contextlib.suppress(OSError):
            if self._client is not None:
                self._client.sendall(data)

    def _from_chip(self, data: bytes) -> None:
        if self._manager is not None:
            self.write(b"".join(self._manager.escape(data)))

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client, contextlib.suppress(OSError):
                self._client = client
                self._manager = serial.rfc2217.PortManager(self._port, self)
                while data := client.recv(65536):
                    self._port.write(b"".join(self._manager.filter(data)))
            self._manager = self._client = None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.unplug()
        self._thread.join(BOUND)

    def unplug(self) -> None:
        if (client := self._client) is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server() -> Iterator[_Server]:
    """The RFC 2217 server with the chip, which runs its firmware."""
    server = _Server()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def board(server: _Server) -> Board:
    """A board behind the server."""
    return Board(server.url, server.chip)


@pytest.fixture
def pty_board() -> Iterator[Board]:
    """A board behind a pseudo-terminal, which has no modem lines; the chip is in its loader."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    chip = Esp32(lambda data: _write(ours, data), in_download=True)

    def run() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                chip.feed(data)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield Board(os.ttyname(theirs), chip)
    finally:
        os.close(theirs)
        thread.join(BOUND)
        os.close(ours)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
