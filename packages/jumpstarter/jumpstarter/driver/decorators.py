"""The marks that make a driver's methods callable from clients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction
from typing import Any, Final, TypeVar, overload

MARKER_MAGIC: Final = "07c9b9cc"
MARKER_DRIVERCALL: Final = "marker_drivercall"
MARKER_STREAMCALL: Final = "marker_streamcall"
MARKER_STREAMING_DRIVERCALL: Final = "marker_streamingdrivercall"
MARKER_WATCH: Final = "marker_watch"
"""Beside one of the others: the method is harmless, so that clients who may only look on can use it too."""

F = TypeVar("F", bound=Callable[..., Any])


@overload
def export(func: F) -> F: ...


@overload
def export(*, watch: bool = False) -> Callable[[F], F]: ...


def export(func: Any = None, *, watch: bool = False) -> Any:
    """Let clients call a method: `call` for functions, `streamingcall` for generators.

    The function is returned as it is, marked. It may be an ordinary or a coroutine function, a
    generator or an async generator function. Used as `@export` or `@export(watch=True)`.

    Args:
        func: the method.
        watch: it changes nothing, neither on the device nor for others who use it, so that clients with the role
            `watcher` may call it as well.

    Raises:
        ValueError: `func` is something else, such as a builtin or a `staticmethod` object.
    """
    if func is None:
        return partial(export, watch=watch)
    if isasyncgenfunction(func) or isgeneratorfunction(func):
        setattr(func, MARKER_STREAMING_DRIVERCALL, MARKER_MAGIC)
    elif iscoroutinefunction(func) or isfunction(func):
        setattr(func, MARKER_DRIVERCALL, MARKER_MAGIC)
    else:
        raise ValueError(f"cannot export {func!r}: it is neither a function nor a generator function")
    return _watched(func, watch)


@overload
def exportstream(func: F) -> F: ...


@overload
def exportstream(*, watch: bool = False) -> Callable[[F], F]: ...


def exportstream(func: Any = None, *, watch: bool = False) -> Any:
    """Let clients open the byte stream that a method's async context manager yields.

    Used as `@exportstream` or `@exportstream(watch=True)`.

    Args:
        func: the method.
        watch: what a client sends has no effect, and opening the stream takes it away from nobody, so that clients
            with the role `watcher` may open it as well.
    """
    if func is None:
        return partial(exportstream, watch=watch)
    setattr(func, MARKER_STREAMCALL, MARKER_MAGIC)
    return _watched(func, watch)


def _watched(func: Any, watch: bool) -> Any:
    if watch:
        setattr(func, MARKER_WATCH, MARKER_MAGIC)
    return func
