"""Tests that lease their board from a lab, run by pytest as a person or a CI job runs it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .lab_admin_test import Lab, home
from .programs import JMP, Outcome, Program

__all__ = ["home"]

Run = Callable[..., Outcome]
Start = Callable[..., Program]

TESTS = """\
import os
import time

from jumpstarter_testing import JumpstarterTest


class TestBoard(JumpstarterTest):
    selector = "board=demo"

    def test_power(self, client):
        client.power.on()
        client.power.off()

    def test_same_session(self, client):
        client.power.on()
        assert "FAIL" not in os.environ


class TestAgain(JumpstarterTest):
    selector = "board=demo"

    def test_power(self, client):
        client.power.on()


class TestLong(JumpstarterTest):
    selector = "board=demo"

    def test_long(self, client):
        print("in use", flush=True)
        time.sleep(60)


class TestNothing(JumpstarterTest):
    selector = "board=none"

    def test_nothing(self, client):
        client.power.on()
"""


@pytest.fixture
def lab(run: Run, start: Start, home: Path) -> Iterator[Lab]:
    opened = Lab(run, start, home).serve()
    for client in ("alice", "bob"):
        opened.jmp("admin", "create", "client", client, "--allow", "jumpstarter_driver_*", "--save")
    opened.board()
    yield opened
    assert opened.server.stop(signal.SIGTERM).code == 0


@pytest.fixture
def pytest_command(tmp_path: Path) -> list[str]:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "board_test.py").write_text(TESTS)
    return [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(folder / "board_test.py"),
    ]


def leases(lab: Lab, *options: str) -> list[str]:
    """Return the names of the leases of the lab."""
    return lab.jmp("admin", "get", "leases", "-o", "name", *options).splitlines()


def test_a_class_leases_a_board_of_the_lab_and_gives_it_back(lab: Lab, run: Run, pytest_command: list[str]) -> None:
    outcome = run(*pytest_command, "-k", "TestBoard or TestAgain")

    assert outcome.code == 0, outcome
    assert "3 passed" in outcome.out
    assert leases(lab) == []
    assert len(leases(lab, "--all")) == 2


def test_tests_that_fail_give_their_board_back_too(lab: Lab, run: Run, pytest_command: list[str]) -> None:
    outcome = run(*pytest_command, "-k", "TestBoard", env={"FAIL": "1"})

    assert (outcome.code, "1 failed, 1 passed" in outcome.out) == (1, True), outcome
    assert leases(lab) == []


def test_tests_that_are_stopped_give_their_board_back_too(lab: Lab, start: Start, pytest_command: list[str]) -> None:
    tests = start(*pytest_command, "-s", "-k", "TestLong")
    tests.wait_for("in use")
    assert len(leases(lab)) == 1

    outcome = tests.stop(signal.SIGINT)

    assert outcome.code == 2, outcome
    assert leases(lab) == []


def test_a_board_that_somebody_else_has_is_waited_for(lab: Lab, start: Start, pytest_command: list[str]) -> None:
    lab.jmp(
        "create", "lease", "--client", "bob", "-l", "board=demo", "--duration", "1h", "--lease-id", "of-bob", "--wait"
    )
    tests = start(*pytest_command, "-k", "TestAgain", "-o", "log_cli=true", "-o", "log_cli_level=INFO")

    tests.wait_for("is used by bob")
    lab.jmp("delete", "lease", "--client", "bob", "of-bob")

    outcome = tests.end()
    assert outcome.code == 0, outcome


def test_a_lease_that_is_named_is_used_and_stays(lab: Lab, run: Run, pytest_command: list[str]) -> None:
    lab.jmp("create", "lease", "-l", "board=demo", "--duration", "1h", "--lease-id", "mine", "--wait")

    outcome = run(*pytest_command, "-k", "TestBoard or TestAgain", env={"JMP_LEASE": "mine"})

    assert outcome.code == 0, outcome
    assert leases(lab, "--all") == ["lease.jumpstarter.dev/mine"]


def test_a_shell_of_another_board_wins_over_the_selector(lab: Lab, run: Run, pytest_command: list[str]) -> None:
    outcome = run(JMP, "shell", "-l", "board=demo", "--", *pytest_command, "-k", "TestNothing")

    assert outcome.code == 0, outcome
    assert len(leases(lab, "--all")) == 1


def test_a_selector_that_nothing_matches_is_told_at_once(lab: Lab, run: Run, pytest_command: list[str]) -> None:
    outcome = run(*pytest_command, "-k", "TestNothing")

    assert outcome.code == 1, outcome
    assert "board=none" in outcome.out
