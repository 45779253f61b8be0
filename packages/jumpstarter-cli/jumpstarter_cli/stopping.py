"""Commands that go on until they are stopped: by Ctrl-C, or by a signal."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio


async def until_stopped(work: Callable[[], Awaitable[None]]) -> int:
    """Run `work` and return the exit code: 0 when it ends by itself, 128 + N when signal N has ended it.

    Raises:
        Exception: what `work` raises, as it is.
    """
    received: list[int] = []
    failure: Exception | None = None
    scope = anyio.CancelScope()

    async def watch() -> None:
        # To the end, so that a second Ctrl-C of an impatient user changes nothing.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                received.append(number)
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        with scope:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
        tasks.cancel_scope.cancel()
    if received:
        return 128 + received[0]
    if failure is not None:
        raise failure
    return 0
