"""Times and places as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jumpstarter.client.wording import clock_time, left, one_line, place


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (45.9, "45s"),
        (60, "1m"),
        (270, "4m 30s"),
        (1380, "23m"),
        (3900, "1h 5m"),
        (7200, "2h"),
        (183600, "2d 3h"),
    ],
)
def test_time_that_is_left_is_told_as_exactly_as_it_matters(seconds: float, text: str) -> None:
    assert left(seconds) == text


@pytest.mark.parametrize(
    ("number", "waiting", "text"),
    [
        (1, 1, "next in the queue"),
        (1, 5, "next of 5 in the queue"),
        (2, 5, "place 2 of 5 in the queue"),
        (3, 0, "place 3 of 3 in the queue"),
    ],
)
def test_places(number: int, waiting: int, text: str) -> None:
    assert place(number, waiting) == text


def test_a_time_of_another_day_has_its_date() -> None:
    moment = datetime.now().astimezone() + timedelta(days=2)
    assert clock_time(moment) == moment.strftime("%Y-%m-%d %H:%M")


def test_a_time_that_is_near_has_its_seconds() -> None:
    moment = datetime.now().astimezone()
    assert clock_time(moment) == moment.strftime("%H:%M:%S")


def test_text_of_others_can_neither_break_the_line_nor_control_the_terminal() -> None:
    assert one_line("gone\n\x1b[2J  for good\r") == "gone [2J for good"
