"""Threads for packing and unpacking, and the memory that they use again and again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

__all__ = ["begin", "finished"]

T = TypeVar("T")

KEPT_MEMORY = 16 << 20
"""Bytes of freed memory up to which the process keeps them."""


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads of our own, so that drivers that block all of anyio's threads don't stop transfers."""
    # glibc gives large blocks back to the system as soon as they are freed, and the next chunk has to be made of new
    # pages, which takes as long as unpacking it. It stops that for blocks up to the largest one that it has seen freed
    # (mallopt(3), M_MMAP_THRESHOLD). The pages of this one are never touched.
    bytes(KEPT_MEMORY)
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="jumpstarter-compression")


async def finished(job: asyncio.Future[T]) -> T:
    """Wait for a job; being cancelled leaves it running, to be waited for again."""
    await asyncio.wait([job])
    return job.result()


def begin(work: Callable[..., T], *args: object) -> asyncio.Future[T]:
    """Begin to run `work` in a thread."""
    job = asyncio.get_running_loop().run_in_executor(_workers(), work, *args)
    job.add_done_callback(lambda done: done.cancelled() or done.exception())  # a job may end after its stream
    return job
