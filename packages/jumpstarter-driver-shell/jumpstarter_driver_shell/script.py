"""Runs one script on this machine: output as it comes, a time limit, and no process left behind."""

from __future__ import annotations

import codecs
import os
import selectors
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final

import anyio
from jumpstarter.common.guard import GuardedProcess

TIMEOUT_STATUS: Final = 199
"""Exit status that stands for a script that was stopped because its time was over."""

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL when a script is stopped."""

CHUNK: Final = 65536
"""Bytes read from a pipe at a time."""

Item = tuple[str, str, int | None]
"""A piece of standard output, a piece of standard error, and the exit status in the last item only."""


async def run_script(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | None, timeout: float
) -> AsyncGenerator[Item, None]:
    """Run `command` and yield its output as it comes, then its exit status, negative for a death by signal.

    After `timeout` seconds the command's process group is stopped, SIGTERM first, and the status is TIMEOUT_STATUS;
    the same happens at once, and without a status, when the caller stops iterating. Output that the command has
    written is never lost; a process that it left in the background and that keeps its output open isn't waited for.
    Bytes that are no UTF-8 are replaced by U+FFFD.

    Raises:
        OSError: no process can be started.
    """
    # No task group and no cancel scope may span a `yield` here: an abandoned generator is closed by another task.
    async with _started(command, env=env, cwd=cwd) as (process, outputs):
        deadline = time.monotonic() + timeout
        timed_out = False
        with selectors.DefaultSelector() as selector:
            for output in (process, *outputs):
                selector.register(output, selectors.EVENT_READ)
            while True:
                left = None if timed_out else max(0.0, deadline - time.monotonic())
                with anyio.move_on_after(left):
                    await anyio.wait_readable(selector.fileno())
                if not timed_out and time.monotonic() >= deadline:
                    timed_out = True
                    process.begin_stop()
                ready = [key.fileobj for key, _ in selector.select(0)]
                exited = process in ready
                for output in outputs:
                    # What the command itself wrote before it ended is in the pipe by now.
                    for item in output.items(everything=exited):
                        yield item
                    if output.at_end and output in selector.get_map():
                        selector.unregister(output)
                if exited:
                    break
        status = await anyio.to_thread.run_sync(process.popen.wait)
    if timed_out:
        yield "", f"Timeout expired after {timeout:g} s: the script was stopped\n", TIMEOUT_STATUS
    else:
        yield "", "", status


async def collect(items: AsyncGenerator[Item, None], limit: int) -> tuple[str, str, int]:
    """Return all output of run_script() and its status; of each output only the last `limit` characters are kept."""
    kept, left_out = ["", ""], [0, 0]
    status = 0
    async with aclosing(items):
        async for out, err, code in items:
            for position, text in enumerate((out, err)):
                kept[position] += text
                excess = max(0, len(kept[position]) - limit)
                left_out[position] += excess
                kept[position] = kept[position][excess:]
            if code is not None:
                status = code
    out, err = (
        f"[{missing} characters left out]\n{text}" if missing else text
        for text, missing in zip(kept, left_out, strict=True)
    )
    return out, err, status


class _Output:
    """Reads one pipe of the command without blocking, as text."""

    def __init__(self, pipe: int, to_item: Callable[[str], Item]) -> None:
        self._pipe = pipe
        self._to_item = to_item
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.at_end = False

    def fileno(self) -> int:
        """Return the descriptor of the pipe."""
        return self._pipe

    def items(self, *, everything: bool) -> Iterator[Item]:
        """Yield one item if there is output, or `everything` that the pipe holds and what the decoder still has."""
        while not self.at_end:
            try:
                data = os.read(self._pipe, CHUNK)
            except BlockingIOError:
                break
            self.at_end = not data
            if text := self._decoder.decode(data, final=self.at_end):
                yield self._to_item(text)
            if not everything:
                return
        if everything and (text := self._decoder.decode(b"", final=True)):
            yield self._to_item(text)


@asynccontextmanager
async def _started(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | None
) -> AsyncGenerator[tuple[GuardedProcess, tuple[_Output, _Output]], None]:
    """Start `command` under a guard; leaving the context ends it, and what it has started in its group."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    process: GuardedProcess | None = None
    try:
        for pipe in (out_read, err_read):
            os.set_blocking(pipe, False)
        start = partial(
            GuardedProcess,
            command,
            grace=GRACE,
            stdin=subprocess.DEVNULL,
            stdout=out_write,
            stderr=err_write,
            env=env,
            cwd=cwd,
        )
        try:
            with anyio.CancelScope(shield=True):
                process = running = await anyio.to_thread.run_sync(start)
        finally:
            os.close(out_write)
            os.close(err_write)
        yield (
            running,
            (_Output(out_read, lambda text: (text, "", None)), _Output(err_read, lambda text: ("", text, None))),
        )
    finally:
        os.close(out_read)
        os.close(err_read)
        if process is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(process.stop)
