"""Ctrl-C and SIGTERM at any point: devices released, terminal as before, and the exit code of the signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from jumpstarter_testing import eventually

from .conftest import Bench, Journal
from .programs import JMP, LIMIT, J, Outcome, Program, Terminal

Config = Callable[..., str]
OpenTerminal = Callable[..., Terminal]
OpenBench = Callable[..., Bench]
Run = Callable[..., Outcome]
Start = Callable[..., Program]

STOP = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize("command", ["shell", "run"])
def test_ctrl_c_while_the_config_is_read(command: str, terminal: OpenTerminal, tmp_path: Path) -> None:
    """The config is a pipe that nobody fills, as on a network file system that hangs."""
    pipe = tmp_path / "exporter.yaml"
    os.mkfifo(pipe)
    opened = terminal(JMP, command, "--exporter-config", str(pipe))
    # Whoever opens a pipe without blocking fails until there is a reader.
    writer = eventually(lambda: os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), timeout=LIMIT)
    try:
        assert opened.press_ctrl_c_until_the_end() == 130
    finally:
        os.close(writer)
    assert opened.restored


def test_ctrl_c_while_a_driver_is_made(
    config: Config, terminal: OpenTerminal, journal: Journal, tmp_path: Path
) -> None:
    """Python can't interrupt what a driver does, but what was made is closed as soon as that is over."""
    until = tmp_path / "until"
    path = config(trouble={"type": "Trouble"}, slow={"type": "SlowSetup", "config": {"until": str(until)}})
    opened = terminal(JMP, "shell", "--exporter-config", path)
    eventually(lambda: two_opened(journal), timeout=LIMIT)
    opened.press_ctrl_c()
    until.touch()
    assert opened.end() == 130
    assert journal.lines == ["opened", "opened", "closed", "closed"]
    assert opened.restored


def test_ctrl_c_again_while_a_driver_is_made_ends_at_once(
    config: Config, terminal: OpenTerminal, journal: Journal, tmp_path: Path
) -> None:
    path = config(slow={"type": "SlowSetup", "config": {"until": str(tmp_path / "never")}})
    opened = terminal(JMP, "shell", "--exporter-config", path)
    journal.wait_for("opened")
    assert opened.press_ctrl_c_until_the_end() == 130
    assert opened.shown.count("Cancelled by user") <= 1
    assert opened.restored


def two_opened(journal: Journal) -> None:
    assert journal.lines == ["opened", "opened"]


def test_ctrl_c_in_a_call(trouble: str, terminal: OpenTerminal, journal: Journal) -> None:
    opened = terminal(JMP, "shell", "--exporter-config", trouble, "--", J, "trouble", "drip")
    opened.wait_for("first")
    journal.wait_for("blocking")
    opened.press_ctrl_c()
    # The driver's own wait is of a minute: neither j nor the shell may wait for it.
    assert opened.end() == 130
    assert opened.shown.count("Error: ") == 1
    assert opened.restored
    assert journal.lines[-1] == "closed"


def test_ctrl_c_in_a_flash(config: Config, terminal: OpenTerminal, journal: Journal, tmp_path: Path) -> None:
    disk, pipe = tmp_path / "disk", tmp_path / "pipe"
    disk.mkdir()
    os.mkfifo(pipe)
    path = config(disk={"type": "Disk", "config": {"directory": str(disk)}})
    opened = terminal(JMP, "shell", "--exporter-config", path, "--", J, "disk", "flash", str(pipe))
    with pipe.open("wb") as source:
        source.write(bytes(1 << 20))
        source.flush()
        eventually(lambda: is_growing(disk), timeout=LIMIT)
        opened.press_ctrl_c()
        assert opened.end() == 130
    assert list(disk.iterdir()) == []
    assert [line.partition(":")[0] for line in journal.lines] == ["opened", "flashing", "aborted", "closed"]
    assert opened.restored


def is_growing(folder: Path) -> None:
    assert [path.stat().st_size > 0 for path in folder.iterdir()] == [True]


def test_ctrl_c_in_an_interactive_shell(trouble: str, terminal: OpenTerminal, journal: Journal) -> None:
    """It ends what runs in the shell, here a call; the shell goes on, and its end releases the devices."""
    opened = terminal(JMP, "shell", "--exporter-config", trouble)
    opened.wait_for("➤")
    opened.type("j trouble drip\n")
    opened.wait_for("first")
    opened.press_ctrl_c()
    opened.wait_for("➤")
    opened.type("echo code $?\n")
    opened.wait_for("code 130")
    assert "closed" not in journal.lines
    opened.type("j trouble ping; exit 7\n")
    opened.wait_for("pong")
    assert opened.end() == 7
    assert journal.lines[-1] == "closed"
    assert opened.restored


def test_a_terminal_that_a_command_left_in_raw_mode_is_restored(
    trouble: str, terminal: OpenTerminal, journal: Journal
) -> None:
    script = "stty raw -echo; echo ready; kill -9 $$"
    opened = terminal(JMP, "shell", "--exporter-config", trouble, "--", "sh", "-c", script)
    opened.wait_for("ready")
    assert opened.end() == 137
    assert opened.restored
    assert journal.lines == ["opened", "closed"]


def test_an_interactive_shell_that_is_stopped(trouble: str, terminal: OpenTerminal, journal: Journal) -> None:
    opened = terminal(JMP, "shell", "--exporter-config", trouble)
    opened.wait_for("➤")
    opened.type("stty raw\n")
    opened.wait_for("➤")
    os.kill(opened.pid, signal.SIGTERM)
    assert opened.end() == 143
    assert journal.lines == ["opened", "closed"]
    assert opened.restored


@pytest.mark.parametrize(("number", "code"), STOP)
def test_a_stopped_exporter_releases_its_devices(
    number: int, code: int, trouble: str, exporter: Callable[[str], tuple[Program, list[str]]], journal: Journal
) -> None:
    program, _ = exporter(trouble)
    assert program.stop(number).code == code
    assert journal.lines.count("opened") == journal.lines.count("closed") >= 1


def test_ctrl_c_stops_an_exporter_at_a_terminal(
    trouble: str, terminal: OpenTerminal, journal: Journal, free_port: int
) -> None:
    address = f"127.0.0.1:{free_port}"
    opened = terminal(JMP, "run", "--exporter-config", trouble, "--tls-grpc-listener", address, "--tls-grpc-insecure")
    opened.wait_for("serving on")
    opened.press_ctrl_c()
    assert opened.end() == 130
    assert journal.lines.count("opened") == journal.lines.count("closed") >= 1
    assert opened.restored


@pytest.mark.parametrize(("number", "code"), STOP)
def test_an_exporter_that_is_stopped_in_a_call_does_not_wait_for_it(
    number: int,
    code: int,
    trouble: str,
    exporter: Callable[[str], tuple[Program, list[str]]],
    bench: OpenBench,
    start: Start,
    journal: Journal,
) -> None:
    program, options = exporter(trouble)
    blocked = start(J, "trouble", "drip", env=bench("", *options).env)
    journal.wait_for("blocking")
    assert program.stop(number).code == code
    blocked.end().failure()
    assert journal.lines[-1] == "closed"


@pytest.mark.parametrize(("number", "code"), STOP)
def test_a_stopped_j_says_at_most_one_line(
    number: int, code: int, trouble: str, bench: OpenBench, start: Start, journal: Journal
) -> None:
    call = start(J, "trouble", "block", env=bench(trouble).env)
    journal.wait_for("blocking")
    result = call.stop(number)
    assert (result.code, result.out) == (code, "")
    assert len(result.err.strip().splitlines()) <= 1
