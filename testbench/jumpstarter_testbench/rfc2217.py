"""A server that puts one serial port on the network, by pyserial's own implementation of RFC 2217.

    python -m jumpstarter_testbench.rfc2217 DEVICE PORT

It serves one client after another on 127.0.0.1; the port stays open between them.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

import serial
from serial.rfc2217 import PortManager


class _PseudoTerminal(serial.Serial):
    """A PTY, which has no modem lines: those of the device read as set, and those of the host change nothing."""

    cts = dsr = cd = True
    ri = False

    def _update_dtr_state(self) -> None:
        """Keep the setting without telling the kernel, which would answer ENOTTY."""

    def _update_rts_state(self) -> None:
        """Keep the setting without telling the kernel, which would answer ENOTTY."""


class _Connection:
    """One client of the port: the writer that PortManager answers through, and the two directions of data."""

    def __init__(self, port: serial.SerialBase, client: socket.socket) -> None:
        self._port = port
        self._client = client
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Send to the client; two threads do."""
        with self._lock:
            self._client.sendall(data)

    def serve(self) -> None:
        """Carry data both ways until the client goes."""
        with contextlib.suppress(ConnectionError):  # the client left without a goodbye
            manager = PortManager(self._port, self)
            ended = threading.Event()
            reader = threading.Thread(target=self._from_port, args=(manager, ended))
            reader.start()
            try:
                while data := self._client.recv(4096):
                    self._port.write(b"".join(manager.filter(data)))
            finally:
                ended.set()
                reader.join()

    def _from_port(self, manager: PortManager, ended: threading.Event) -> None:
        with contextlib.suppress(ConnectionError):  # the other direction notices the same end
            while not ended.is_set():
                if data := self._port.read(self._port.in_waiting or 1):
                    self.write(b"".join(manager.escape(data)))
                manager.check_modem_lines()


def main(device: str, port: int) -> None:
    """Serve `device`, the path of a PTY or a pyserial URL, on `port` until the process is told to end."""
    opener = serial.serial_for_url if "://" in device else _PseudoTerminal
    with (
        opener(device, timeout=0.02) as serial_port,
        socket.create_server(("127.0.0.1", port)) as listener,
    ):
        while True:
            client, _ = listener.accept()
            with client:
                _Connection(serial_port, client).serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
