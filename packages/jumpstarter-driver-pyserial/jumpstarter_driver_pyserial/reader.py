"""A thread that reads a serial port into a mailbox: for ports without a descriptor, and for recording."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

import serial

from .mailbox import Mailbox

REOPEN_INTERVAL: Final = 1.0
"""Seconds between two attempts to open a port that is gone."""

CHUNK: Final = 65536
"""Bytes read at a time, at most."""


class PortReader:
    """Reads one port until it is stopped; opens the port again when it went away, if it is to record.

    Args:
        name: the port, for messages.
        opener: opens the port; blocking.
        mailbox: takes what is read, and the end when it isn't recording.
        record: start without the port if need be, and survive its loss.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], serial.SerialBase],
        mailbox: Mailbox,
        logger: logging.Logger,
        *,
        record: bool,
    ) -> None:
        self._name = name
        self._opener = opener
        self._mailbox = mailbox
        self._logger = logger
        self._record = record
        self._stopping = threading.Event()
        self._available = threading.Event()
        self.port: serial.SerialBase | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the port and start to read it; a recorder starts in any case.

        Raises:
            serial.SerialException: the port can't be opened, unless it is to be recorded.
        """
        if not self._record:
            self.port = self._opener()
            self._available.set()
        self._thread = threading.Thread(target=self._run, name=f"reader of {self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the port. Does nothing the second time."""
        self._stopping.set()
        if (port := self.port) is not None and hasattr(port, "cancel_read"):
            port.cancel_read()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def write(self, data: bytes) -> None:
        """Write to the port; blocking.

        Raises:
            serial.SerialException: the port is gone.
        """
        port = self.port
        if port is None:
            raise serial.SerialException(f"serial port {self._name} is not connected")
        port.write(data)

    def wait_available(self, timeout: float) -> bool:
        """Return whether the port is open, after `timeout` seconds at most."""
        return self._available.wait(timeout)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self.port is None and not self._open():
                    self._stopping.wait(REOPEN_INTERVAL)
                    continue
                self._read_until_lost()
                if not self._record:
                    return
        finally:
            self._close()
            if not self._record:
                self._mailbox.finish()

    _complained = False

    def _open(self) -> bool:
        try:
            self.port = self._opener()
        except (OSError, ValueError) as error:
            if not self._complained:
                self._logger.warning("%s; trying again every %g s", error, REOPEN_INTERVAL)
                self._complained = True
            return False
        if self._complained:
            self._logger.info("serial port %s is there again", self._name)
            self._complained = False
        self._available.set()
        return True

    def _read_until_lost(self) -> None:
        port = self.port
        assert port is not None
        try:
            while not self._stopping.is_set():
                if data := port.read(max(1, min(int(port.in_waiting), CHUNK))):
                    self._mailbox.put(data)
        except (OSError, TypeError) as error:  # pyserial raises TypeError when the port is closed meanwhile
            if not self._stopping.is_set():
                self._logger.error("serial port %s is lost: %s", self._name, error)
            self._close()

    def _close(self) -> None:
        self._available.clear()
        port, self.port = self.port, None
        if port is not None:
            try:
                port.close()
            except OSError as error:
                self._logger.debug("closing %s: %s", self._name, error)
