"""The commands of serial ports, as programs in a terminal or a pipeline."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner
from jumpstarter.common.utils import serve

from jumpstarter_driver_pyserial.conftest import BOUND, Line
from jumpstarter_driver_pyserial.console import EscapeDetector
from jumpstarter_driver_pyserial.driver import PySerial

PROGRAM = """
import sys
from jumpstarter.common.utils import serve
from jumpstarter_driver_pyserial.driver import PySerial
with serve(PySerial(url=sys.argv[1], check_present=False)) as client:
    client.cli()(sys.argv[2:], standalone_mode=True)
"""
"""Runs the commands of a port as `j` does, with the driver in the same process."""


def command(url: str, *words: str) -> list[str]:
    """The command line that runs a command of the port at `url`."""
    return [sys.executable, "-c", PROGRAM, url, *words]


def attributes(descriptor: int) -> list[Any]:
    """The settings of a terminal."""
    return termios.tcgetattr(descriptor)


def wait_canonical(descriptor: int, wanted: bool) -> None:
    """Wait until a terminal reads lines, or every key."""
    deadline = time.monotonic() + BOUND
    while bool(attributes(descriptor)[3] & termios.ICANON) is not wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Terminal:
    """A console command in a pseudo-terminal."""

    def __init__(self, url: str, *words: str) -> None:
        arguments = command(url, "start-console", *words)
        self.session = pexpect.spawn(arguments[0], arguments[1:], timeout=BOUND, echo=True)
        # The descriptor of the master shows the settings of the terminal.
        self.before = attributes(self.session.child_fd)
        self.session.expect("CTRL[+]. three times")

    def wait_connected(self, line: Line) -> None:
        """Wait until the terminal passes on every key and the port is open: then a key reaches the device."""
        wait_canonical(self.session.child_fd, False)
        self.session.send("!")
        assert line.read(1) == b"!"

    def end(self) -> int:
        """Wait for the end of the command; return its exit status, and check that the terminal is as it was."""
        self.session.expect(pexpect.EOF)
        self.session.wait()
        return self.session.exitstatus if self.session.exitstatus is not None else -self.session.signalstatus


@pytest.mark.daemon
@pytest.mark.need("socat")
class TestConsole:
    """start-console."""

    def test_keys_reach_the_device_and_its_output_the_terminal(self, line: Line) -> None:
        terminal = Terminal(line.path)
        terminal.wait_connected(line)
        terminal.session.send("ls\r")
        assert line.read(3) == b"ls\r"
        line.write(b"file\r\n")
        terminal.session.expect("file\r\n")
        terminal.session.send("\x02\x02\x02")
        terminal.session.expect("left the console")
        assert terminal.end() == 0

    def test_interrupt_keys_reach_the_device(self, line: Line) -> None:
        terminal = Terminal(line.path)
        terminal.wait_connected(line)
        terminal.session.send("\x03\x1a\x1c\x04\x11\x13")
        assert line.read(6) == b"\x03\x1a\x1c\x04\x11\x13"
        terminal.session.send("\x02\x02\x02")
        assert terminal.end() == 0

    def test_first_two_escapes_are_sent_the_third_leaves(self, line: Line) -> None:
        terminal = Terminal(line.path)
        terminal.wait_connected(line)
        terminal.session.send("\x02\x02a\x02")
        assert line.read(4) == b"\x02\x02a\x02"
        terminal.session.send("\x02\x02")
        assert terminal.end() == 0
        assert line.read(1) == b"\x02"
        with pytest.raises(BlockingIOError):
            os.read(line.device, 1)

    def test_another_escape_key_can_be_chosen(self, line: Line) -> None:
        terminal = Terminal(line.path, "--escape", "x")
        terminal.wait_connected(line)
        terminal.session.send("\x02\x02\x02\x18\x18\x18")
        assert terminal.end() == 0
        assert line.read(5) == b"\x02\x02\x02\x18\x18"

    def test_output_is_added_to_a_log(self, line: Line, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("before\n")
        terminal = Terminal(line.path, "--log", str(log))
        terminal.wait_connected(line)
        line.write(b"booting\r\n")
        terminal.session.expect("booting")
        terminal.session.send("\x02\x02\x02")
        assert terminal.end() == 0
        assert log.read_bytes() == b"before\nbooting\r\n"

    def test_terminal_is_restored_after_leaving(self, line: Line) -> None:
        # given a shell, so that the terminal outlives the console
        words = " ".join(f"'{word}'" for word in command(line.path, "start-console"))
        session = pexpect.spawn("/bin/sh", ["-c", f"{words}; stty -a; read answer; echo got $answer"], timeout=BOUND)
        session.expect("three times")
        wait_canonical(session.child_fd, False)
        session.send("\x02\x02\x02")
        session.expect("[^-]icanon")
        session.expect(" echo ")
        session.sendline("yes")
        session.expect("got yes")
        session.expect(pexpect.EOF)
        session.close()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_terminal_is_restored_when_the_command_is_ended(self, line: Line, number: signal.Signals) -> None:
        terminal = Terminal(line.path)
        terminal.wait_connected(line)
        terminal.session.kill(number)
        wait_canonical(terminal.session.child_fd, True)
        assert attributes(terminal.session.child_fd)[:6] == terminal.before[:6]
        assert terminal.end() == 128 + number

    def test_lost_device_ends_the_console_at_once(self, line: Line) -> None:
        terminal = Terminal(line.path)
        terminal.wait_connected(line)
        line.write(b"last words")
        terminal.session.expect("last words")
        line.hang_up()
        terminal.session.expect("the device ended the connection")
        assert terminal.end() == 0


def test_console_without_a_terminal_says_what_to_use() -> None:
    result = subprocess.run(
        command("loop://", "start-console"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND
    )
    assert result.returncode == 1
    assert "the console needs a terminal" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("typed", "sent", "leaves"),
    [
        ([b"abc"], b"abc", False),
        ([b"\x02\x02\x02"], b"\x02\x02", True),
        ([b"\x02", b"\x02", b"\x02"], b"\x02\x02", True),
        ([b"\x02\x02x\x02", b"\x02y"], b"\x02\x02x\x02\x02y", False),
        ([b"a\x02\x02\x02b"], b"a\x02\x02", True),
    ],
)
def test_escape_is_three_times_in_a_row(typed: list[bytes], sent: bytes, leaves: bool) -> None:
    detector = EscapeDetector()
    results = [detector.feed(data) for data in typed]
    assert b"".join(data for data, _ in results) == sent
    assert results[-1][1] is leaves


@pytest.mark.daemon
@pytest.mark.need("socat")
class TestPipe:
    """pipe."""

    def start(self, line: Line, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start the command; its standard error is a pipe."""
        return subprocess.Popen(command(line.path, "pipe", *words), stderr=subprocess.PIPE, **options)

    def mode(self, process: subprocess.Popen[bytes]) -> str:
        """The line that says what the command does."""
        assert process.stderr is not None
        return process.stderr.readline().decode()

    def listen(self, process: subprocess.Popen[bytes], line: Line, words: bytes) -> bytes:
        """Let the device say its words again until the command prints something, for the port may not be open yet."""
        assert process.stdout is not None
        deadline = time.monotonic() + BOUND
        while not select.select([process.stdout], [], [], 0.05)[0]:
            assert time.monotonic() < deadline
            line.write(words)
        return process.stdout.readline()

    def stop(self, process: subprocess.Popen[bytes]) -> str:
        """Press Ctrl-C; return what else was on standard error."""
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=BOUND)
        return (stderr or b"").decode()

    def test_output_goes_to_stdout_until_interrupted(self, line: Line) -> None:
        process = self.start(line, "--no-input", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        mode = self.mode(process)
        assert "Reading from serial port" in mode
        assert "read-only" in mode
        assert "Ctrl+C to exit" in mode
        assert self.listen(process, line, b"hello\n") == b"hello\n"
        assert "Stopped" in self.stop(process)
        assert process.returncode == 0

    def test_piped_input_is_sent_and_output_goes_on(self, line: Line) -> None:
        process = self.start(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        mode = self.mode(process)
        assert "Bidirectional mode" in mode
        assert "auto-detected" in mode
        assert process.stdin is not None
        process.stdin.write(b"command\n")
        process.stdin.close()
        process.stdin = None
        assert line.read(8) == b"command\n"
        line.write(b"answer\n")
        assert process.stdout is not None
        assert process.stdout.readline() == b"answer\n"
        self.stop(process)

    def test_fire_and_forget_ends_with_the_input(self, line: Line, tmp_path: Path) -> None:
        (tmp_path / "commands").write_bytes(b"one\ntwo\n")
        with (tmp_path / "commands").open("rb") as commands:
            process = self.start(line, "--no-output", stdin=commands)
        assert line.read(8) == b"one\ntwo\n"
        _, stderr = process.communicate(timeout=BOUND)
        assert process.returncode == 0
        assert b"Fire-and-forget mode" in stderr

    @pytest.mark.parametrize(("append", "expected"), [(True, b"old\nnew\n"), (False, b"new\n")])
    def test_output_goes_to_a_file(self, line: Line, tmp_path: Path, append: bool, expected: bytes) -> None:
        target = tmp_path / "log"
        target.write_bytes(b"old\n")
        words = ["-o", str(target), *(["-a"] if append else [])]
        process = self.start(line, *words, "-i", stdin=subprocess.PIPE)
        assert "forced input" in self.mode(process)
        # Once what is sent has arrived the port is open.
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        line.read(1)
        line.write(b"new\n")
        while target.read_bytes() != expected:
            assert process.poll() is None
        self.stop(process)

    def test_empty_input_leaves_the_output_going(self, line: Line) -> None:
        process = self.start(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.mode(process)
        assert self.listen(process, line, b"still here\n") == b"still here\n"
        assert "Stopped" in self.stop(process)

    def test_lost_device_ends_the_command(self, line: Line) -> None:
        process = self.start(line, "--no-input", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.mode(process)
        assert self.listen(process, line, b"x\n") == b"x\n"
        line.hang_up()
        _, stderr = process.communicate(timeout=BOUND)
        assert b"Serial stream ended" in stderr
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-a"], "--append requires --output"),
        (["-i", "--no-input"], "Cannot use both --input and --no-input"),
        (["--no-output", "-o", "x"], "Cannot use both --no-output and --output"),
        (["--no-output", "--no-input"], "--no-output requires stdin input"),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(words: list[str], message: str) -> None:
    with serve(PySerial(url="loop://")) as client:
        result = CliRunner().invoke(client.cli(), ["pipe", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_set_dtr_reports_a_port_without_lines() -> None:
    with serve(PySerial(url="loop://")) as client:
        result = CliRunner().invoke(client.cli(), ["set-dtr", "on"])
    assert result.exit_code == 1
