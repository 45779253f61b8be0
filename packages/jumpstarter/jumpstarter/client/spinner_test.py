"""What a user is told while a lease is waited for."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest

from jumpstarter.client import spinner
from jumpstarter.client.lease import LeaseAcquisitionSpinner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in place of stderr; not in a fixture, because pytest puts its own there after the set-up."""
    opened = Terminal()
    monkeypatch.setattr(sys, "stderr", opened)
    monkeypatch.setenv("TERM", "xterm")
    return opened


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = 0.0

    monkeypatch.setattr(spinner.time, "monotonic", lambda: Clock.now)
    return Clock


def test_terminal_shows_what_is_waited_for_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = terminal(monkeypatch)
    with LeaseAcquisitionSpinner("lease-1") as shown:
        shown.update_status("waiting: all boards are in use")
    assert "Lease lease-1: waiting: all boards are in use (0:00:00)" in opened.getvalue()
    assert opened.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("value", ["1", "true"])
def test_terminal_is_left_alone_on_request(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = terminal(monkeypatch)
    monkeypatch.setenv("NONINTERACTIVE", value)
    with LeaseAcquisitionSpinner("lease-1") as shown:
        shown.update_status("waiting")
    assert opened.getvalue() == ""


def test_log_tells_what_is_new_and_what_is_not_once_a_minute(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LeaseAcquisitionSpinner() as shown:
        clock.now = 1
        shown.update_status("one")
        clock.now = 59
        shown.update_status("one")
        shown.tick()
        clock.now = 62
        shown.tick()
        shown.lease_name = "lease-1"
        shown.update_status("two")
    assert [record.message for record in caplog.records] == [
        "New lease: one (0:00:01)",
        "New lease: one (0:01:02)",
        "Lease lease-1: two (0:01:02)",
    ]


UUID_NAME = "01a1f9cf-9b2e-73e3-8215-178a80058e4b"


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (None, f"Lease {UUID_NAME}: waiting: next in the queue (0:00:05)"),
        (60, "Next in the queue (0:00:05)"),
        (24, "Next in the q… (0:00:05)"),
    ],
)
def test_line_is_shortened_by_what_matters_least(width: int | None, text: str, clock: Any) -> None:
    with LeaseAcquisitionSpinner(UUID_NAME) as shown:
        shown.update_status("waiting: next in the queue")
        clock.now = 5
        assert shown.text(width) == text


def test_times_that_change_are_no_news(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left = iter(("10m", "9m", "8m"))
    with LeaseAcquisitionSpinner("lease-1") as shown:
        for _ in range(2):
            shown.update_status("waiting: until 14:00", lambda: f"waiting: until 14:00 ({next(left)} left)")
        clock.now = 61
        shown.tick()
    assert [record.message for record in caplog.records] == [
        "Lease lease-1: waiting: until 14:00 (10m left) (0:00:00)",
        "Lease lease-1: waiting: until 14:00 (9m left) (0:01:01)",
    ]
