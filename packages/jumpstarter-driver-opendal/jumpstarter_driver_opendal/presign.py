"""Presigning with the opendal library, which has it for its async operators only, in a way that is safe at exit.

A thread of the library's runtime hands the result to the event loop and then drops its references to the loop. A
process that ends in between crashes, as that thread calls into a Python that is going away. So the operation gets an
event loop of its own, and this module returns only when nobody holds that loop any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from typing import Any

__all__ = ["presign"]

logger = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds that presigning may take; some storages fetch credentials for it."""

SETTLE_TIMEOUT = 2.0


def presign(operator: Any, operation: str, path: str, expire_second: int) -> Any:
    """Make a presigned request; blocks, so it must not run on an event loop.

    Args:
        operator: an `opendal.Operator` or `opendal.AsyncOperator`.
        operation: `stat`, `read` or `write`.
        path: the path to presign.
        expire_second: seconds until it expires.

    Returns:
        An `opendal.types.PresignedRequest`.

    Raises:
        opendal.exceptions.Error: the storage can't presign this.
        TimeoutError: it took more than 30 seconds.
    """
    if hasattr(operator, "to_async_operator"):
        operator = operator.to_async_operator()

    async def call() -> Any:
        async with asyncio.timeout(TIMEOUT):
            return await getattr(operator, f"presign_{operation}")(path, expire_second)

    loop = asyncio.new_event_loop()
    released = weakref.ref(loop)
    try:
        return loop.run_until_complete(call())
    finally:
        loop.close()
        del loop
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while released() is not None and time.monotonic() < deadline:
            time.sleep(0.0005)
        if released() is not None:
            logger.debug("the storage library still holds the event loop of a presigned request")
