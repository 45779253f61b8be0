"""Durations and points in time on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from .common import (
    ACQUISITION_TIMEOUT,
    DATETIME,
    DURATION,
    POSITIVE_DURATION,
    RETRY_TIMEOUT,
    duration_text,
    parse_pairs,
)

HOURS_AND_A_HALF = timedelta(hours=1, minutes=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1h30m", HOURS_AND_A_HALF),
        ("1h 30m", HOURS_AND_A_HALF),
        ("90m", HOURS_AND_A_HALF),
        ("90 min", HOURS_AND_A_HALF),
        ("1.5h", HOURS_AND_A_HALF),
        ("5400", HOURS_AND_A_HALF),
        ("PT1H30M", HOURS_AND_A_HALF),
        ("+PT5M", timedelta(minutes=5)),
        ("-PT5M", timedelta(minutes=-5)),
        ("01:30:00", HOURS_AND_A_HALF),
        ("25:00:00", timedelta(hours=25)),
        ("00:30:00.5", timedelta(minutes=30, seconds=0.5)),
        ("01:30", timedelta(seconds=90)),
        ("1d", timedelta(days=1)),
        ("1 d", timedelta(days=1)),
        ("2 days", timedelta(days=2)),
        ("1d3h40m", timedelta(days=1, hours=3, minutes=40)),
        ("1d 01:30:00", timedelta(days=1, hours=1, minutes=30)),
        ("1 days, 01:30:00", timedelta(days=1, hours=1, minutes=30)),
        ("1w", timedelta(weeks=1)),
        ("P1W", timedelta(weeks=1)),
        ("P1DT2H", timedelta(days=1, hours=2)),
        ("2 hours", timedelta(hours=2)),
        ("5s", timedelta(seconds=5)),
        ("10.5", timedelta(seconds=10.5)),
        ("0", timedelta(0)),
        ("-5", timedelta(seconds=-5)),
        (30, timedelta(seconds=30)),
        (-1.5, timedelta(seconds=-1.5)),
        (HOURS_AND_A_HALF, HOURS_AND_A_HALF),
        (86399999999999, timedelta(seconds=86399999999999)),
    ],
)
def test_a_duration(text: Any, expected: timedelta) -> None:
    assert DURATION.convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["", " ", "P", "PT", "1h30", "h", "soon", "1 fortnight", "1:99", None, [], True])
def test_no_duration(text: Any) -> None:
    with pytest.raises(click.BadParameter, match="is not a valid duration"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("text", ["99999999999999999", 10**20, "9999999999w"])
def test_too_long_a_duration(text: Any) -> None:
    with pytest.raises(click.BadParameter, match="exceeds the maximum allowed duration"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "text", "least"),
    [(POSITIVE_DURATION, "0", "1"), (ACQUISITION_TIMEOUT, "4", "5"), (RETRY_TIMEOUT, "-1", "0")],
)
def test_too_short_a_duration(kind: click.ParamType, text: str, least: str) -> None:
    with pytest.raises(click.BadParameter, match=f"must be at least {least} seconds"):
        kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12).astimezone()),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ("1769860800", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_point_in_time(text: str, expected: datetime) -> None:
    moment = DATETIME.convert(text, None, None)
    assert moment == expected
    assert moment.tzinfo is not None


def test_no_point_in_time() -> None:
    with pytest.raises(click.BadParameter, match="is not a valid datetime"):
        DATETIME.convert("tomorrow", None, None)


@pytest.mark.parametrize(
    ("duration", "text"), [(HOURS_AND_A_HALF, "1h30m"), (timedelta(days=1, seconds=5), "1d5s"), (timedelta(0), "0s")]
)
def test_durations_as_text(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


def test_pairs() -> None:
    assert parse_pairs(["a=b=c", "d="], "tag") == {"a": "b=c", "d": ""}
    with pytest.raises(click.UsageError, match="Invalid tag format: 'a'"):
        parse_pairs(["a"], "tag")
