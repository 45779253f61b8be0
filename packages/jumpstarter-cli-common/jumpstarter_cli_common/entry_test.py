"""Exit codes and error reports of whole programs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from jumpstarter.common.exceptions import ConfigurationError

from .entry import MainGroup, exit_code_of
from .opt import OutputType, opt_log_level, opt_output_all


def program(outcome: Any) -> MainGroup:
    """A program whose command returns or raises `outcome`."""

    @click.group(cls=MainGroup)
    @opt_log_level
    def main() -> None:
        pass

    @main.command()
    @opt_output_all
    @click.option("--number", type=int)
    def do(output: OutputType, number: int | None) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return main  # type: ignore[no-any-return]


def run(outcome: Any, *args: str) -> Result:
    return CliRunner().invoke(program(outcome), args or ("do",), prog_name="prog")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        ("text", 0),
        (True, 0),
        (7, 7),
        (256, 1),
        (-9, 137),
        (click.exceptions.Exit(5), 5),
        (ConfigurationError("no"), 1),
        (click.ClickException("no"), 1),
        (click.UsageError("no"), 2),
        (click.Abort(), 1),
        (KeyboardInterrupt(), 130),
        (EOFError(), 1),
        (KeyError("bug"), 1),
        (ExceptionGroup("all", [ConfigurationError("no")]), 1),
    ],
)
def test_outcome_and_exit_code(outcome: Any, code: int) -> None:
    assert run(outcome).exit_code == code


def test_exit_codes_are_never_wrapped_into_success() -> None:
    assert [exit_code_of(value) for value in (0, 255, 256, 512, -15, -1000)] == [0, 255, 1, 1, 143, 1]


def test_a_failure_is_one_line_on_stderr_and_nothing_on_stdout() -> None:
    result = run(ConfigurationError("no endpoint"))
    assert (result.stdout, result.stderr) == ("", "Error: no endpoint\n")


def test_no_traceback_is_shown_for_a_bug() -> None:
    result = run(KeyError("bug"))
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: Internal error: KeyError: 'bug'\nHint: ")


@pytest.mark.parametrize("level", ["debug", "DEBUG"])
def test_the_traceback_is_shown_at_log_level_debug(level: str) -> None:
    result = run(KeyError("bug"), "--log-level", level, "do")
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-2] == "Error: Internal error: KeyError: 'bug'"


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_with_machine_output_a_failure_is_one_json_object_on_stderr(output: str) -> None:
    result = run(ConfigurationError("no endpoint"), "do", "-o", output)
    assert json.loads(result.stderr) == {"reason": "configuration", "message": "no endpoint", "hint": None}
    assert result.exit_code == 1
    assert result.stdout == ""


@pytest.mark.parametrize("spelling", [["-o", "json"], ["-ojson"], ["--output", "json"], ["--output=json"]])
def test_a_refused_command_line_is_an_object_too(spelling: list[str]) -> None:
    result = run(None, "do", "--number", "x", *spelling)
    failure = json.loads(result.stderr)
    assert failure["reason"] == "usage"
    assert "'x' is not a valid integer" in failure["message"]
    assert result.exit_code == 2


def test_what_follows_two_dashes_is_not_taken_for_our_output_mode() -> None:
    result = run(None, "do", "--", "-o", "json")
    assert result.stderr.startswith("Usage:")


def test_an_unknown_log_level_is_a_usage_error() -> None:
    result = run(None, "--log-level", "loud", "do")
    assert result.exit_code == 2


def test_embedding_programs_get_results_and_exceptions() -> None:
    assert program(7).main(["do"], standalone_mode=False) == 7
    with pytest.raises(ConfigurationError):
        program(ConfigurationError("no")).main(["do"], standalone_mode=False)


def test_a_thread_that_never_ends_does_not_keep_the_program_from_ending() -> None:
    program = (
        "import sys, threading\n"
        "import click\n"
        "from jumpstarter_cli_common.entry import MainGroup\n"
        "@click.group(cls=MainGroup)\n"
        "def main(): pass\n"
        "@main.command()\n"
        "def do():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    click.echo('done')\n"
        "    sys.exit(7)\n"
        "sys.argv = ['main', 'do']\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, "done\n", "")
