"""Values of a lab's objects: read as Go and Kubernetes write them, written so that both read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from .values import from_length, from_time, to_length, to_time


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1h30m0s", timedelta(minutes=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1m0.000001s", timedelta(minutes=1, microseconds=1)),
        ("-5s", timedelta(seconds=-5)),
        ("7d", timedelta(days=7)),
        ("0", timedelta(0)),
        ("1500ns", timedelta(microseconds=1)),
    ],
)
def test_lengths_are_read_as_go_writes_them(text: str, value: timedelta) -> None:
    assert to_length(text) == value


@pytest.mark.parametrize("text", ["", "5", "h", "1x", "1h-", "soon", "1h 5m"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        to_length(text)


@pytest.mark.parametrize(
    "value", [timedelta(0), timedelta(hours=100), timedelta(seconds=1, microseconds=20), timedelta(minutes=-3)]
)
def test_lengths_come_back_as_they_were_written(value: timedelta) -> None:
    assert to_length(from_length(value)) == value


def test_times_come_back_in_utc_with_at_most_microseconds() -> None:
    assert to_time("2026-01-02T03:04:05.123456789Z") == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    assert from_time(to_time("2026-01-02T04:04:05+01:00")) == "2026-01-02T03:04:05Z"
