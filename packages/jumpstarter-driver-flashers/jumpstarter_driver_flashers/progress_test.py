"""The display shows rate, percentage and remaining time, as bars on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import itertools
import logging
import sys

import pytest

from . import progress
from .progress import Display, size_text

MIB = 1 << 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second each time it is read."""
    ticks = itertools.count(1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.mark.usefixtures("seconds")
def test_lines_tell_amount_percentage_rate_and_remaining_time(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with Display(logging.getLogger("flash"), terminal=False) as display:
        display.step("Booting")
        meter = display.meter("writing disk.img", 100 * MIB)
        for done in range(1, 9):
            meter.update(done * 10 * MIB)
        meter.update(100 * MIB)
        meter.finish()
        meter.finish()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Booting"
    assert lines[1].startswith("writing disk.img: 50.0 MiB of 100.0 MiB (50%), ")
    assert "MiB/s, " in lines[1]
    assert lines[1].endswith(" s left")
    assert lines[-1].startswith("writing disk.img: 100.0 MiB in ")
    assert len([line for line in lines if " in " in line]) == 1


@pytest.mark.usefixtures("seconds")
def test_work_of_unknown_size_has_no_percentage(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with Display(logging.getLogger("flash"), terminal=False) as display:
        meter = display.meter("writing")
        for done in range(10):
            meter.update(done * MIB)
    assert "%" not in caplog.text
    assert "left" not in caplog.text


def test_bars_show_both_transfers_with_percentage_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Display(logging.getLogger("flash")) as display:
        display.step("Booting [the] board")
        sending, writing = display.meter("sending disk.img", 100 * MIB), display.meter("writing disk.img", 100 * MIB)
        sending.update(100 * MIB)
        sending.finish()
        writing.update(25 * MIB)
        with display.paused():
            terminal.write("somebody else's turn\n")
    shown = terminal.getvalue()
    for words in ("Booting [the] board", "sending disk.img", "writing disk.img", "100%", "25%", "25.0/100.0 MiB"):
        assert words in shown
    assert "MiB/s" in shown or "?" in shown


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("TQDM_DISABLE", "1")])
def test_bars_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, variable: str, value: str):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert progress.is_terminal()
    monkeypatch.setenv(variable, value)
    assert not progress.is_terminal()


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (2048, "2.0 KiB"), (3 * MIB, "3.0 MiB"), (5 << 30, "5.0 GiB")])
def test_sizes_have_binary_units(size: int, text: str):
    assert size_text(size) == text
