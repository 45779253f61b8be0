"""Passing on bytes between two connections that end as a whole."""

from __future__ import annotations

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group
from anyio.abc import ByteStream

__all__ = ["relay"]

CHUNK = 256 * 1024


async def relay(a: ByteStream, b: ByteStream) -> None:
    """Forward both directions until one of the two connections has ended, and all that it had sent has been passed on.

    For protocols that tell the end of a direction by themselves, over connections that can't be half-closed. Closing
    both is the caller's task; one that broke ends the other as a close would.
    """
    async with create_task_group() as tasks:

        async def direction(dst: ByteStream, src: ByteStream) -> None:
            try:
                while True:
                    await dst.send(await src.receive(CHUNK))
            except (EndOfStream, BrokenResourceError, ClosedResourceError):
                tasks.cancel_scope.cancel()

        tasks.start_soon(direction, a, b)
        tasks.start_soon(direction, b, a)
