"""Messages at a terminal that an interactive shell has too; what the screen shows then is in the acceptance tests."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from .prompt import BesidePrompt, beside_prompt


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def child(pid: int | None = 4711, *, interactive: bool = True) -> Any:
    return SimpleNamespace(pid=pid, interactive=interactive)


@pytest.fixture
def xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("xterm")
def test_a_line_is_inserted_above_the_one_with_the_cursor() -> None:
    terminal = Terminal()
    BesidePrompt(terminal, child()).write("the lease ends\n")
    # One line of room by scrolling, the cursor kept; the row moves down, and the cursor with it.
    assert terminal.getvalue() == "\x1bD\x1b[1A\x1b7\r\x1b[1Lthe lease ends\x1b8\x1b[1B"


@pytest.mark.usefixtures("xterm")
def test_a_long_line_gets_as_many_rows_as_it_needs() -> None:
    terminal = Terminal()
    BesidePrompt(terminal, child()).write("word " * 30 + "\n")
    assert "\x1b[2L" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b8\x1b[2B")


@pytest.mark.usefixtures("xterm")
def test_a_line_is_shown_when_it_is_complete() -> None:
    terminal = Terminal()
    beside = BesidePrompt(terminal, child())
    beside.write("the lease ")
    assert terminal.getvalue() == ""
    beside.write("ends\nand")
    assert "the lease ends" in terminal.getvalue()
    beside.finish()
    assert terminal.getvalue().endswith("and")


@pytest.mark.usefixtures("xterm")
def test_before_and_after_the_shell_lines_are_plain() -> None:
    terminal = Terminal()
    BesidePrompt(terminal, child(None)).write("\r\nthe lease has ended\r\n")
    assert terminal.getvalue() == "the lease has ended\r\n"


def test_a_terminal_that_can_do_nothing_gets_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    BesidePrompt(terminal, child()).write("the lease ends\n")
    assert terminal.getvalue() == "\r\nthe lease ends\r\n"


@pytest.mark.parametrize(("stream", "interactive"), [(io.StringIO(), True), (Terminal(), False)])
def test_elsewhere_stderr_stays_what_it_is(
    stream: io.StringIO, interactive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with beside_prompt(child(interactive=interactive)):
        assert sys.stderr is stream


def test_stderr_is_itself_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with beside_prompt(child()):
        assert isinstance(sys.stderr, BesidePrompt)
        assert sys.stderr.isatty()
    assert sys.stderr is terminal
