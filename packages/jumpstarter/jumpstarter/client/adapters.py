"""Async adapters of driver clients as plain context managers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def blocking(
    function: Callable[P, AbstractAsyncContextManager[T]],
) -> Callable[P, AbstractContextManager[T]]:
    """Make a plain context manager of a function that returns an async one.

    The function takes a driver client as keyword argument `client`; it runs on that client's event loop.

    Raises:
        KeyError: on a call without the keyword `client`.
    """

    @wraps(function)
    @contextmanager
    def blocked(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        client: Any = kwargs["client"]
        with plain_errors(client.portal.wrap_async_context_manager(function(*args, **kwargs))) as value:
            yield value

    return blocked


class BodyInterrupted(Exception):
    """Stands inside an async context manager for an interrupt of the blocking body, such as KeyboardInterrupt.

    The interrupt itself must not get there: raised on an event loop, it ends the whole loop.
    """


@contextmanager
def plain_errors(manager: AbstractContextManager[T]) -> Generator[T, None, None]:
    """Enter `manager`, the blocking face of an async context manager, and let an error of the body come out as it is.

    An async context manager that keeps tasks would let it come out of its task group inside an exception group.
    """
    value = manager.__enter__()
    try:
        yield value
    except BaseException as error:
        inside = error if isinstance(error, Exception) else BodyInterrupted()
        try:
            swallowed = manager.__exit__(type(inside), inside, error.__traceback__)
        except BaseException as raised:
            if _holds(raised, inside):
                raise error from error.__cause__
            raise
        if not swallowed or inside is not error:
            raise
    else:
        manager.__exit__(None, None, None)


def _holds(raised: BaseException, error: BaseException) -> bool:
    """Tell whether `raised` is `error`, or a group with it inside."""
    if isinstance(raised, BaseExceptionGroup):
        return any(_holds(member, error) for member in raised.exceptions)
    return raised is error
