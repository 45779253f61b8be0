"""An interactive console: the user's terminal connected to a serial port of the exporter."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient

ESCAPE: Final = b"\x02"
"""The key that leaves the console when it is pressed three times in a row: Ctrl-B."""

ESCAPE_COUNT: Final = 3

CHUNK: Final = 4096


class ConsoleExit(Exception):
    """The user pressed the escape key often enough."""


class EscapeDetector:
    """Watches what the user types for the escape key, three times without another key between."""

    def __init__(self, escape: bytes = ESCAPE) -> None:
        self._escape = escape[0]
        self._count = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what goes to the device, and whether the user wants to leave; the last escape isn't sent."""
        for position, value in enumerate(data):
            self._count = self._count + 1 if value == self._escape else 0
            if self._count == ESCAPE_COUNT:
                return data[:position], True
        return data, False


class Console:
    """Connects the terminal to a client's serial port until the user leaves or the port is gone.

    Args:
        serial_client: client of the port.
        escape: the byte that leaves when it comes three times in a row.
        log: a file to which the device's output is added.
    """

    def __init__(self, serial_client: DriverClient, *, escape: bytes = ESCAPE, log: str | Path | None = None) -> None:
        self.serial_client = serial_client
        self._escape = escape
        self._log = log

    def run(self) -> None:
        """Connect; returns when the user leaves, or the device ends the connection.

        The terminal is put back as it was, also when the process is told to end by SIGTERM or SIGHUP.

        Raises:
            RuntimeError: standard input is no terminal.
            DriverError: the exporter can't open the port.
        """
        with self.setraw():
            left = self.serial_client.portal.call(self._run)
            reason = "left the console" if left else "the device ended the connection"
            _say(f"\r\n[{reason}]\r\n")

    @contextmanager
    def setraw(self) -> Generator[None, None, None]:
        """Have the terminal pass every key on as it is, while the context lasts.

        Raises:
            RuntimeError: standard input is no terminal.
        """
        descriptor = sys.stdin.fileno()
        try:
            before = termios.tcgetattr(descriptor)
        except termios.error as error:
            raise RuntimeError(
                "the console needs a terminal, and standard input is none. Use the pipe command for files and pipes"
            ) from error
        name = _key_name(self._escape)
        _say(f"\nWelcome to the serial console. To leave it, press {name} three times.\n")
        try:
            with _ended_by_signals():
                tty.setraw(descriptor)
                yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    async def _run(self) -> bool:
        """Pump both ways; return whether it was the user who left."""
        left = False
        async with self.serial_client.stream_async(method="connect") as stream, anyio.create_task_group() as tasks:

            async def from_device() -> None:
                await self._device_to_terminal(stream)
                tasks.cancel_scope.cancel()

            async def from_user() -> None:
                nonlocal left
                try:
                    await self._terminal_to_device(stream)
                except ConsoleExit:
                    left = True
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(from_device)
            tasks.start_soon(from_user)
        return left

    async def _device_to_terminal(self, stream: Any) -> None:
        with ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(await to_thread.run_sync(open, self._log, "ab"))
            while True:
                try:
                    data = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                # A terminal that is held with Ctrl-S must not stop the event loop.
                await to_thread.run_sync(_write, sys.stdout.fileno(), data, abandon_on_cancel=True)
                if log is not None:
                    await to_thread.run_sync(_append, log, data)

    async def _terminal_to_device(self, stream: Any) -> None:
        descriptor = sys.stdin.fileno()
        detector = EscapeDetector(self._escape)
        while True:
            await anyio.wait_readable(descriptor)
            typed = os.read(descriptor, CHUNK)
            if not typed:
                return
            data, leave = detector.feed(typed)
            if data:
                await stream.send(data)
            if leave:
                raise ConsoleExit


@contextmanager
def _ended_by_signals() -> Generator[None, None, None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that the terminal is restored; only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _append(file: Any, data: bytes) -> None:
    file.write(data)
    file.flush()


def _key_name(escape: bytes) -> str:
    return f"CTRL+{chr(escape[0] + 64)}" if escape[0] < 32 else repr(escape.decode("latin-1"))
