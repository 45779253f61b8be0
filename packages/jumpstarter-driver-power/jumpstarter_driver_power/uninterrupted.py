"""Steps that must not stop half-way when the caller goes away, such as switching a device on again."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio import CancelScope

T = TypeVar("T")


async def call(function: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False) -> Any:
    """Call a coroutine function on the event loop, or an ordinary one in a worker thread.

    Args:
        function: what to call.
        args: its arguments.
        abandon_on_cancel: when cancelled, don't wait for the thread, which goes on by itself.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon_on_cancel)


async def uninterrupted(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Await `function(*args)` to its end, then let a cancellation that came meanwhile take effect.

    The function needs a bound of its own. Both kinds of cancellation are held off: that of anyio's scopes by a
    shielded scope, that of the task itself, which gRPC uses when a client goes away, by a task that is awaited again.
    """
    with CancelScope(shield=True):
        task = asyncio.ensure_future(function(*args))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if not task.cancelled():
                    cancelled = error
            except Exception:  # noqa: BLE001 - raised below, from the task itself
                break
        if cancelled is not None:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise cancelled from failure
            raise cancelled
    return task.result()
