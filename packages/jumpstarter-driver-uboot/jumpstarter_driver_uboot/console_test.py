"""What commands on a console survive, on a board that misbehaves."""

from __future__ import annotations

import threading
import time

import pytest

from . import console as engine
from .conftest import BOUND, Board
from .console import Console
from .dialects import UBOOT
from .errors import (
    BoardRestarted,
    CommandAborted,
    CommandFailed,
    CommandIncomplete,
    ConsoleClosed,
    ConsoleGarbled,
    ConsoleSilent,
    ConsoleTimeout,
    LineTooLong,
    OutputTooLong,
)


@pytest.fixture
def console(session, monkeypatch):
    """The engine; this board is so near that prompts are complete sooner."""
    monkeypatch.setattr(engine, "QUIET", 0.03)
    return Console(session, UBOOT)


@pytest.fixture
def impatient(monkeypatch):
    """Errors of the echo are noticed sooner."""
    monkeypatch.setattr(engine, "ECHO_WAIT", 1.0)
    monkeypatch.setattr(engine, "STALLED", 0.3)


@pytest.mark.parametrize("prompt", ["=> ", "U-Boot> ", "MX8 => ", "board# "])
def test_output_and_status_are_found_at_any_prompt(scripted: Board, console, prompt):
    scripted.prompt = prompt
    assert console.run("echo one; echo two; false").lines == ["one", "two"]
    assert console.run("false").status == 1
    assert console.run("true").status == 1  # this board doesn't know it
    assert console.prompt == prompt.strip()


def test_a_command_is_run_once(scripted: Board, console):
    scripted.commands["count"] = lambda board: 0
    console.run("count")
    console.run("echo")
    assert sum("count" in line for line in scripted.runs) == 1


def test_prompts_and_markers_in_the_output_are_output(console):
    output = ["=> ", "U-Boot> => ", "login:", "jmp", "echo 'jm''p'", "> "]
    for line in output:
        assert console.run(f"echo {UBOOT.quote(line)}").text == f"{line}\n"


def test_output_without_line_end_is_found(scripted: Board, console):
    scripted.commands["dots"] = lambda board: board.print("Loading: ....") or 3
    result = console.run("dots")
    assert (result.lines, result.status) == (["Loading: ...."], 3)


@pytest.mark.parametrize("columns", [80, 20])
def test_an_echo_that_wraps_is_no_output(scripted: Board, console, columns):
    scripted.columns = columns
    assert console.run("echo " + "wrapped " * 30).lines == ["wrapped " * 29 + "wrapped"]


def test_escape_sequences_are_no_output(scripted: Board, console):
    # as busybox asks for the position of the cursor
    scripted.prompt = "\x1b[6n=> "
    scripted.commands["colour"] = lambda board: board.print("\x1b[1;31mred\x1b[0m\x1b]0;title\x07!\r\n") or 0
    assert console.run("colour").text == "red!\n"
    assert console.prompt == "=>"


def test_keys_that_were_left_in_the_line_are_discarded(session, console):
    session.send("\x1b\x1bset")
    assert console.run("echo clean").lines == ["clean"]
    session.send("junk")
    console.synchronise()
    assert console.run("echo clean").lines == ["clean"]


def test_messages_of_the_kernel_between_the_lines_are_output(scripted: Board, console):
    scripted.print_hook = lambda text: f"[   12.3] usb 1-1: new device\r\n{text}"
    result = console.run("echo a; false")
    assert "a" in result.lines
    assert result.status == 1


def test_a_marker_that_a_message_tears_apart_does_not_matter(scripted: Board, console, impatient):
    torn = []

    def tear(text: str) -> str:
        if "jmp]" in text and not torn:
            torn.append(text)
            return text.replace("jmp]", "jm[  1.0] usb 1-1: reset\r\np]")
        return text

    scripted.print_hook = tear
    result = console.run("echo output; false", timeout=BOUND)
    assert torn
    assert result.status == 1
    assert result.lines[0] == "output"
    assert console.run("echo next").lines == ["next"]


def test_a_time_out_is_honoured_and_tells_the_last_lines(scripted: Board, console):
    def hang(board: Board) -> int:
        board.print("working\r\n")
        while board.key(None) != "\x03":
            pass
        return 1

    scripted.commands["hang"] = hang
    began = time.monotonic()
    with pytest.raises(ConsoleTimeout, match=r"'hang' did not end on U-Boot within 0.5 s") as caught:
        console.run("hang", timeout=0.5)
    assert time.monotonic() - began < BOUND
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.tail == ["working"]
    # and the console is in step again
    assert console.run("echo after").lines == ["after"]


def test_a_command_that_ignores_ctrl_c_is_told(scripted: Board, console, monkeypatch):
    monkeypatch.setattr(engine, "PROBE_WAIT", 0.2)
    over = threading.Event()
    scripted.commands["stuck"] = lambda board: over.wait(BOUND) and 0
    with pytest.raises(ConsoleTimeout, match="doesn't react to Ctrl-C"):
        console.run("stuck", timeout=0.2)
    over.set()
    assert console.run("echo back").lines == ["back"]


def test_a_board_that_restarts_during_a_command_is_told(scripted: Board, session, console):
    scripted.commands["crash"] = lambda board: board.print("Synchronous Abort\r\n") or board.reboot()
    with pytest.raises(BoardRestarted, match=r"restarted .* while 'crash' ran") as caught:
        console.run("crash")
    assert "Synchronous Abort" in caught.value.tail
    # the session goes on where the restart was seen
    session.expect_exact("stop autoboot")


def test_a_board_that_restarts_unseen_is_told(scripted: Board, console, impatient):
    # given a board that says nothing when it starts
    def crash(board: Board) -> int:
        board._variables.clear()
        raise_to_prompt()

    class ToPrompt(Exception):
        pass

    def raise_to_prompt():
        raise ToPrompt

    original = scripted._run

    def run(line: str) -> None:
        try:
            original(line)
        except ToPrompt:
            pass

    scripted._run = run
    scripted.commands["crash"] = crash
    with pytest.raises(BoardRestarted):
        console.run("crash")


def test_a_board_that_restarts_between_commands_is_told(scripted: Board, console):
    console.run("echo before")
    scripted.say("\r\nU-Boot SPL 2023.01 (Jan 01 2023)\r\n=> ")

    def run_until_noticed() -> None:
        limit = time.monotonic() + BOUND
        while time.monotonic() < limit:
            console.run("echo after")

    with pytest.raises(BoardRestarted, match="since the last command"):
        run_until_noticed()
    assert console.run("echo again").lines == ["again"]


def test_a_command_that_the_shell_gives_up_is_told(scripted: Board, console, impatient):
    def give_up(line: str) -> None:
        scripted.say("syntax error\r\n")

    console.run("echo")
    scripted._run, run = (lambda line: give_up(line) if "bad" in line else run(line)), scripted._run
    with pytest.raises(CommandAborted, match=r"gave up 'bad'(.|\n)*syntax error"):
        console.run("bad")
    assert console.run("echo after").lines == ["after"]


def test_a_command_that_is_not_complete_is_told(scripted: Board, console, impatient):
    console.run("echo")
    original = scripted._run

    def wait_for_rest(line: str) -> None:
        if not line.startswith("echo 'jm''p[") or "if true" not in line:
            original(line)
            return
        scripted.say("> ")
        while scripted.key(None) != "\x03":
            pass

    scripted._run = wait_for_rest
    with pytest.raises(CommandIncomplete, match="waits for the rest of 'if true; then'"):
        console.run("if true; then")
    assert console.run("echo after").lines == ["after"]


def test_a_console_that_loses_characters_is_typed_to_slowly(scripted: Board, console, impatient):
    scripted.burst = 16
    command = "echo 0123456789abcdefghijklmnopqrstuvwxyz"
    assert console.run(command).lines == [command.removeprefix("echo ")]
    # a line that was not complete was never run
    assert all("0123456789abcdefghijklmnopqrstuvwxyz" in line for line in scripted.runs if "jm''p[" in line)


def test_a_console_that_takes_nothing_whole_is_told(scripted: Board, console, impatient):
    console.run("echo")
    runs = len(scripted.runs)
    scripted.burst = 2
    with pytest.raises(ConsoleGarbled, match="doesn't arrive"):
        console.run("setenv bootcmd something")
    assert scripted.env == {"bootdelay": "2"}
    assert not any("bootcmd" in line for line in scripted.runs[runs:])


def test_a_line_that_is_too_long_is_not_run(scripted: Board, console):
    scripted.longest = 100
    with pytest.raises(LineTooLong, match="takes 100 characters per line"):
        console.run("setenv x " + "y" * 200)
    assert "x" not in scripted.env
    assert console.run("echo ok").lines == ["ok"]


def test_a_console_without_echo_works(scripted: Board, console, impatient):
    scripted.echoes = False
    assert console.run("echo one").lines == ["one"]
    scripted.echoes = True
    assert console.run("echo two").lines == ["two"]


def test_a_connection_that_ends_is_told(scripted: Board, console):
    scripted.commands["pull"] = lambda board: board.unplug() or 0
    with pytest.raises(ConsoleClosed, match="connection to the console has ended") as caught:
        console.run("pull")
    assert isinstance(caught.value, ConnectionError)


def test_silence_is_told(scripted: Board, console):
    scripted.switch(False)
    with pytest.raises(ConsoleSilent, match="nothing arrives"):
        console.synchronise(0.5)


def test_garbage_is_told(scripted: Board, session, console):
    scripted.switch(False)
    session.send("x")
    deadline = time.monotonic() + BOUND
    while scripted._connection is None:
        assert time.monotonic() < deadline
    scripted._connection.sendall(b"\xf0\xfe\x80\xc0" * 50)
    with pytest.raises(ConsoleSilent, match="Is the baud rate right"):
        console.synchronise(0.5)


def test_what_answers_instead_is_shown(scripted: Board, console):
    # given a board that has booted Linux
    console.run("echo")
    scripted.boot_delay = 0
    scripted.switch(False)
    scripted.switch(True)
    with pytest.raises(ConsoleSilent, match=r"shows something else(.|\n)*board login:"):
        console.synchronise(1)


def test_endless_output_is_ended(scripted: Board, console, monkeypatch):
    monkeypatch.setattr(engine, "MAX_OUTPUT", 10_000)

    def flood(board: Board) -> int:
        while board.key(0) != "\x03":
            board.print("flood\r\n" * 100)
        return 1

    scripted.commands["flood"] = flood
    with pytest.raises(OutputTooLong):
        console.run("flood")
    assert console.run("echo after").lines == ["after"]


def test_a_status_is_checked(console):
    with pytest.raises(CommandFailed, match="'nosuch' failed on U-Boot with status 1") as caught:
        console.run("nosuch", check=True)
    assert caught.value.status == 1
    assert caught.value.output == ["Unknown command 'nosuch' - try 'help'"]


@pytest.mark.parametrize(
    "command", ["", "  ", "# only a comment", "echo 'open", 'echo "open', "echo \\", "a\nb", "a\tb", "a\x03b", "a\x00"]
)
def test_what_would_not_end_on_its_line_is_refused_before_anything_is_sent(scripted: Board, console, command):
    with pytest.raises(ValueError):  # noqa: PT011 (each has a message of its own)
        console.run(command)
    assert scripted.runs == []


def test_output_is_followed_while_it_comes(scripted: Board, console):
    seen = threading.Event()
    pieces: list[str] = []

    def two_parts(board: Board) -> int:
        board.print("first\r\n")
        assert seen.wait(BOUND)
        board.print("second\r\n")
        return 0

    def follow(text: str) -> None:
        pieces.append(text)
        seen.set()

    scripted.commands["parts"] = two_parts
    assert console.run("parts", on_text=follow).lines == ["first", "second"]
    assert "".join(pieces) == "first\nsecond\n"


def test_secrets_are_not_in_errors(scripted: Board, console):
    console.redact.add("s3cret")
    with pytest.raises(CommandFailed) as caught:
        console.run("nosuch s3cret; echo s3cret; false", check=True)
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_command_that_does_not_come_back_leaves_the_session_to_others(scripted: Board, session, console):
    scripted.commands["boot"] = lambda board: board.reboot()
    console.start("boot")
    session.expect_exact("stop autoboot")
    session.send(" ")
    assert console.run("echo again").lines == ["again"]


def test_waiting_in_vain_tells_the_last_lines(scripted: Board, console):
    scripted.commands["boot"] = lambda board: board.print("Wrong Image\r\n") or 1
    console.start("boot")
    with pytest.raises(ConsoleTimeout, match=r"did not show 'login: ' within 0.5 s(.|\n)*Wrong Image"):
        console.wait_for("login: ", timeout=0.5)
