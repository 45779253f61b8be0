"""Retrying an assertion until it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(fn: Callable[[], T], *, timeout: float = 5, interval: float = 0.05) -> T:
    """Call `fn` until it does not raise, and return what it returned.

    Args:
        fn: takes nothing; any `Exception` that it raises (an `AssertionError` above all) means "not yet".
            `pytest.skip()`, `pytest.fail()` and `KeyboardInterrupt` end the wait at once.
        timeout: seconds after which no further attempt starts. `fn` is called at least once, and once more when the
            time is up, so that a condition that comes true during the last pause is seen.
        interval: seconds between the attempts.

    Raises:
        ValueError: `timeout` or `interval` is negative.
        Exception: what the last attempt raised.
    """
    if timeout < 0 or interval < 0:
        raise ValueError(f"timeout and interval must not be negative, got timeout={timeout!r}, interval={interval!r}")
    deadline = time.monotonic() + timeout
    while True:
        last_attempt = time.monotonic() >= deadline
        try:
            return fn()
        except Exception:
            if last_attempt:
                raise
        time.sleep(min(interval, max(0.0, deadline - time.monotonic())))
