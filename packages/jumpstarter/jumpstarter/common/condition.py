"""Questions about the conditions of a lease or exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

__all__ = ["condition_false", "condition_message", "condition_present_and_equal", "condition_true"]


class Condition(Protocol):
    """What is read of `jumpstarter.v1.Condition`, a copy of the Kubernetes type of that name."""

    @property
    def type(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...


def _matching(conditions: Iterable[Condition], condition_type: str, reason: str | None) -> Iterator[Condition]:
    for condition in conditions:
        if condition.type == condition_type and (reason is None or condition.reason == reason):
            yield condition


def condition_present_and_equal(
    conditions: Iterable[Condition], condition_type: str, status: str, reason: str | None = None
) -> bool:
    """Tell whether the first condition of that type, and of that reason if one is given, has the status.

    `status` is one of the texts "True", "False" and "Unknown". Without such a condition the answer is False.
    """
    return any(condition.status == status for condition in _first(_matching(conditions, condition_type, reason)))


def condition_message(conditions: Iterable[Condition], condition_type: str, reason: str | None = None) -> str | None:
    """Return the message of the first condition of that type and reason, None if there is none."""
    for condition in _first(_matching(conditions, condition_type, reason)):
        return condition.message
    return None


def condition_true(conditions: Iterable[Condition], condition_type: str) -> bool:
    """Tell whether the condition is present and "True"."""
    return condition_present_and_equal(conditions, condition_type, "True")


def condition_false(conditions: Iterable[Condition], condition_type: str) -> bool:
    """Tell whether the condition is present and "False"; an absent one is neither true nor false."""
    return condition_present_and_equal(conditions, condition_type, "False")


def _first(conditions: Iterator[Condition]) -> Iterator[Condition]:
    for condition in conditions:
        yield condition
        return
