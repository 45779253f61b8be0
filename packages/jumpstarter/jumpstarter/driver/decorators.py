"""The marks that make a driver's methods callable from clients."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction
from typing import Any, Final, TypeVar

MARKER_MAGIC: Final = "07c9b9cc"
MARKER_DRIVERCALL: Final = "marker_drivercall"
MARKER_STREAMCALL: Final = "marker_streamcall"
MARKER_STREAMING_DRIVERCALL: Final = "marker_streamingdrivercall"

F = TypeVar("F", bound=Callable[..., Any])


def export(func: F) -> F:
    """Let clients call a method: `call` for functions, `streamingcall` for generators.

    The function is returned as it is, marked. It may be an ordinary or a coroutine function, a
    generator or an async generator function.

    Raises:
        ValueError: `func` is something else, such as a builtin or a `staticmethod` object.
    """
    if isasyncgenfunction(func) or isgeneratorfunction(func):
        setattr(func, MARKER_STREAMING_DRIVERCALL, MARKER_MAGIC)
    elif iscoroutinefunction(func) or isfunction(func):
        setattr(func, MARKER_DRIVERCALL, MARKER_MAGIC)
    else:
        raise ValueError(f"cannot export {func!r}: it is neither a function nor a generator function")
    return func


def exportstream(func: F) -> F:
    """Let clients open the byte stream that a method's async context manager yields."""
    setattr(func, MARKER_STREAMCALL, MARKER_MAGIC)
    return func
