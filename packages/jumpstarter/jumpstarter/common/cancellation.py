"""Waiting for gRPC's answers so that anyio's cancel scopes and time limits work."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["answer"]

T = TypeVar("T")


async def answer(call: Awaitable[T]) -> T:
    """Return the answer of a unary call.

    A unary call of grpc.aio that is cancelled raises a `CancelledError` of its own instead of the one that cancelled
    it. anyio takes that for somebody else's: `move_on_after` would not end it, `fail_after` not raise `TimeoutError`,
    and a task group would drop the task without a word.
    """
    # Imported when they are there already: modules of commands that may make no call at all import this one.
    from asyncio import CancelledError

    try:
        return await call
    except CancelledError:
        from anyio.lowlevel import checkpoint

        # Raises the real one if it was a scope that is being cancelled.
        await checkpoint()
        raise
