"""Moments to come, against a plain dictionary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from .timers import Timers

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 30), st.integers(0, 30))))
def test_each_thing_is_due_once_at_the_moment_that_was_set_last(steps: list[tuple[int, int | None, int]]) -> None:
    timers: Timers[int] = Timers()
    plain: dict[int, datetime] = {}
    for key, minute, now in steps:
        timers.set(key, None if minute is None else at(minute))
        plain.pop(key, None)
        if minute is not None:
            plain[key] = at(minute)
        assert timers.next() == min(plain.values(), default=None)
        if now % 3 == 0:
            due = {key for key, moment in plain.items() if moment <= at(now)}
            found = list(timers.due(at(now)))
            assert sorted(found) == sorted(due)
            assert [plain[key] for key in found] == sorted(plain[key] for key in found)
            for key in due:
                del plain[key]
        assert len(timers) == len(plain)


def test_what_is_set_again_and_again_takes_no_room() -> None:
    timers: Timers[str] = Timers()
    for minute in range(10_000):
        timers.set("lease", at(minute))
    assert len(timers._heap) < 200
    assert list(timers.due(at(10_000))) == ["lease"]
