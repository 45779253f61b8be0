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
        with client.portal.wrap_async_context_manager(function(*args, **kwargs)) as value:
            yield value

    return blocked
