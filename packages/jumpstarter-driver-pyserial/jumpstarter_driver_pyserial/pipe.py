"""Copying between a serial port and this process's standard input and output, or a file."""

from __future__ import annotations

import os
import sys
from typing import IO, Any, Final

import anyio
import click
from anyio import to_thread

CHUNK: Final = 65536


class Pipe:
    """One run of the pipe command.

    Args:
        output_file: where the port's output goes; None is standard output.
        append: add to the file.
        sends: send standard input to the port.
        reads: read the port; without it the run ends with standard input.
    """

    def __init__(self, output_file: str | None, *, append: bool, sends: bool, reads: bool) -> None:
        self._output_file = output_file
        self._append = append
        self._sends = sends
        self._reads = reads
        self._scope = anyio.CancelScope()

    def stop(self) -> None:
        """End the run; to be called on the event loop."""
        self._scope.cancel()

    async def run(self, stream: Any) -> None:
        """Copy until the port's stream ends, stop() is called, or standard input ends and nothing is to be read."""
        with self._scope:
            if not self._reads:
                await self._send_input(stream)
                return
            async with anyio.create_task_group() as tasks:
                if self._sends:
                    tasks.start_soon(self._send_input, stream)
                await self._write_output(stream)
                tasks.cancel_scope.cancel()

    async def _send_input(self, stream: Any) -> None:
        descriptor = sys.stdin.fileno()
        try:
            while data := await _read(descriptor):
                await stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            click.echo("Serial connection broken: not everything was sent", err=True)

    async def _write_output(self, stream: Any) -> None:
        if self._output_file is None:
            await _copy(stream, sys.stdout.buffer)
            return
        file = await to_thread.run_sync(self._open_output, self._output_file)
        with file:
            await _copy(stream, file)

    def _open_output(self, path: str) -> IO[bytes]:
        return open(path, "ab" if self._append else "wb")


async def _read(descriptor: int) -> bytes:
    try:
        await anyio.wait_readable(descriptor)
    except PermissionError:
        # Regular files and /dev/null can't be waited for, and need not be.
        return await to_thread.run_sync(os.read, descriptor, CHUNK)
    return os.read(descriptor, CHUNK)


async def _copy(stream: Any, file: IO[bytes]) -> None:
    try:
        while True:
            data = await stream.receive()
            await to_thread.run_sync(_write, file, data, abandon_on_cancel=True)
    except anyio.EndOfStream:
        click.echo("Serial stream ended", err=True)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        click.echo("Serial connection broken", err=True)


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
