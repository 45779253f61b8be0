"""Exporters that die without a word: whoever uses them is told soon, and what is left of them ends too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from jumpstarter_testing import eventually

from .conftest import Bench, Journal
from .programs import JMP, LIMIT, J, Outcome, Program

Exporter = Callable[[str], tuple[Program, list[str]]]
OpenBench = Callable[..., Bench]
Run = Callable[..., Outcome]
Start = Callable[..., Program]

SOON = 15.0
"""Seconds within which a dead exporter is noticed, as promised."""


@pytest.fixture
def trouble_exporter(trouble: str, exporter: Exporter, bench: OpenBench) -> tuple[Program, Bench]:
    """An exporter, and an open shell that uses it directly."""
    program, options = exporter(trouble)
    return program, bench("", *options)


def test_a_call_in_progress_ends_when_the_exporter_is_killed(
    trouble_exporter: tuple[Program, Bench], start: Start, journal: Journal
) -> None:
    program, opened = trouble_exporter
    call = start(J, "trouble", "block", env=opened.env)
    journal.wait_for("blocking")
    begin = time.monotonic()
    os.kill(program.child(), signal.SIGKILL)
    message = call.end().failure()
    assert "the connection to the exporter was lost" in message
    assert "Hint: Check that the exporter still runs" in message
    assert time.monotonic() - begin < SOON


def test_an_exporter_that_is_killed_is_started_again_under_an_open_shell(
    trouble_exporter: tuple[Program, Bench], run: Run, journal: Journal
) -> None:
    program, opened = trouble_exporter
    assert run(J, "trouble", "ping", env=opened.env).out == "pong\n"
    os.kill(program.child(), signal.SIGKILL)
    program.wait_for("The exporter was ended by SIGKILL.")

    def answers() -> None:
        assert run(J, "trouble", "ping", env=opened.env).out == "pong\n"

    eventually(answers, timeout=SOON)
    assert opened.shell.process.poll() is None
    assert journal.lines.count("opened") == 2


def test_a_killed_supervisor_takes_its_exporter_along_and_the_devices_are_released(
    trouble_exporter: tuple[Program, Bench], run: Run, journal: Journal
) -> None:
    program, opened = trouble_exporter
    program.stop(signal.SIGKILL)
    journal.wait_for("closed")
    begin = time.monotonic()
    message = run(J, "trouble", "ping", env=opened.env).failure()
    assert time.monotonic() - begin < SOON
    assert opened.env["JUMPSTARTER_HOST"] in message
    assert "did not respond" in message
    # The shell itself goes on, and ends as always.
    assert opened.shell.stop(signal.SIGTERM).code == 143


def test_a_command_in_the_shell_of_a_dead_exporter_keeps_its_exit_code(
    trouble: str, exporter: Exporter, start: Start
) -> None:
    program, options = exporter(trouble)
    shell = start(JMP, "shell", *options, "--", "sh", "-c", "echo open; read line; j trouble ping; exit 9", stdin=-1)
    shell.wait_for("open")
    program.stop(signal.SIGKILL)
    assert shell.process.stdin is not None
    shell.process.stdin.write(b"\n")
    shell.process.stdin.close()
    assert shell.end().failure(code=9)


def test_j_says_that_a_local_shell_was_killed(
    trouble: str, bench: OpenBench, start: Start, run: Run, journal: Journal
) -> None:
    shell, env = bench(trouble)
    call = start(J, "trouble", "block", env=env)
    journal.wait_for("blocking")
    child = shell.child()
    begin = time.monotonic()
    os.kill(shell.process.pid, signal.SIGKILL)
    try:
        assert "the connection to the exporter was lost" in call.end().failure()
        message = run(J, "trouble", "ping", env=env).failure()
    finally:
        os.kill(child, signal.SIGKILL)
    assert time.monotonic() - begin < SOON
    assert "the exporter can't be reached (Connection refused)" in message
    assert len(message.splitlines()) <= 2


def test_nobody_at_the_address_is_told(run: Run, free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    begin = time.monotonic()
    message = run(JMP, "shell", "--tls-grpc", address, "--tls-grpc-insecure", "--", "true").failure()
    assert time.monotonic() - begin < LIMIT
    assert address in message
