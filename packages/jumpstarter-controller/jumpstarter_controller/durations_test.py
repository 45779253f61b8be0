"""Lengths of time in the spellings that people use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jumpstarter_controller.durations import parse_duration


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ("90d", timedelta(days=90)),
        ("1w", timedelta(days=7)),
        ("1h30m", timedelta(minutes=90)),
        ("1h30m0s", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        (" 45s ", timedelta(seconds=45)),
        (30, timedelta(seconds=30)),
        (0.5, timedelta(milliseconds=500)),
    ],
)
def test_a_length(written: object, length: timedelta) -> None:
    assert parse_duration(written) == length


@pytest.mark.parametrize("written", ["PT30M", "soon", "1h 30m", "", "m", None, True, [1]])
def test_everything_else_is_left_to_others(written: object) -> None:
    assert parse_duration(written) is written
