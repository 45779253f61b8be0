"""What can go wrong while a board is flashed: which step it was, and whether another try may help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from jumpstarter.common.exceptions import ArgumentError, ConfigurationError, JumpstarterException

__all__ = ["FlashError", "FlashNonRetryableError", "FlashRetryableError", "categorize", "find_in_chain"]

T = TypeVar("T", bound=BaseException)


class FlashError(JumpstarterException, RuntimeError):
    """A board was not flashed. The message names the step, and holds the cause."""

    def __str__(self) -> str:
        return self.message


class FlashRetryableError(FlashError):
    """A board was not flashed, for a reason that may pass."""


class FlashNonRetryableError(FlashError):
    """A board was not flashed, and trying again won't help."""


def related(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, all that is in it if it is a group, and what caused these."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
        waiting.extend((each.__cause__, None if each.__suppress_context__ else each.__context__))


def find_in_chain(error: BaseException, kind: type[T]) -> T | None:
    """Return the first exception of a kind among an exception, what is in it and what caused it."""
    return next((each for each in related(error) if isinstance(each, kind)), None)


def categorize(error: BaseException) -> FlashRetryableError | FlashNonRetryableError:
    """Return an error that says whether trying again may help.

    One that says that it won't, anywhere in the chain, decides; an unknown error is worth another try.
    """
    from concurrent.futures import CancelledError

    if (final := find_in_chain(error, FlashNonRetryableError)) is not None:
        return final
    for kind in (ArgumentError, ConfigurationError, CancelledError):
        if (found := find_in_chain(error, kind)) is not None:
            hopeless = FlashNonRetryableError(str(found) or "the operation was cancelled")
            hopeless.__cause__ = None if isinstance(found, JumpstarterException) else found
            return hopeless
    if (passing := find_in_chain(error, FlashRetryableError)) is not None:
        return passing
    unknown = FlashRetryableError(str(error) or type(error).__name__)
    unknown.__cause__ = error
    return unknown
