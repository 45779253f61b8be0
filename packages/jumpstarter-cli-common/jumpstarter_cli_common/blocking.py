"""Runs coroutine functions as plain functions, for click."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def blocking(f: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Make a function of a coroutine function; must be the innermost decorator, and no event loop may be running."""

    @wraps(f)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return asyncio.run(f(*args, **kwargs))

    return wrapper
