"""How much is measured, the same for the limit, ours and the peer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

CALLS = 1600
THREADS = 16
ITEMS = 20000


def median_of(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def latency(run: Callable[[], object], count: int = CALLS) -> float:
    """Return the median seconds that `run` takes."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median_of(taken)


STREAM_KEY = b"key of stream tokens for measuring"
"""What the tokens of the router's figures are signed with."""
