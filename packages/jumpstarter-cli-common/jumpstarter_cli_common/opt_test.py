"""Options that many commands share."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from .logs import StderrHandler
from .opt import (
    OutputMode,
    SourcePrefixFormatter,
    confirm_insecure_tls,
    opt_comma_separated,
    opt_insecure_tls,
    opt_labels,
    opt_output_all,
    parse_comma_separated,
    validate_name,
)


def command(*decorators: Any) -> click.Command:
    def show(**values: Any) -> None:
        click.echo(repr(values))

    function: Any = show
    for decorator in decorators:
        function = decorator(function)
    return click.command()(function)


@pytest.mark.parametrize("spelling", ["-k", "--insecure-tls", "--insecure-tls-config"])
def test_all_spellings_of_insecure_tls_are_understood(spelling: str) -> None:
    assert CliRunner().invoke(command(opt_insecure_tls), [spelling]).output == "{'insecure_tls': True}\n"


def test_insecure_tls_is_confirmed() -> None:
    @click.command()
    def ask() -> None:
        confirm_insecure_tls(True, False)
        click.echo("goes on")

    assert "goes on" in CliRunner().invoke(ask, input="y\n").output
    declined = CliRunner().invoke(ask, input="n\n")
    assert (declined.exit_code, "Abort" in declined.output, "goes on" in declined.output) == (1, True, False)


def test_nothing_is_asked_with_nointeractive_or_without_the_option() -> None:
    confirm_insecure_tls(True, True)
    confirm_insecure_tls(False, False)


def test_labels_are_split_at_the_first_equals_sign() -> None:
    result = CliRunner().invoke(command(opt_labels()), ["-l", "a=b=c", "--label", "d="])
    assert result.output == "{'labels': {'a': 'b=c', 'd': ''}}\n"


def test_a_label_without_value_is_a_usage_error() -> None:
    result = CliRunner().invoke(command(opt_labels()), ["-l", "a"])
    assert result.exit_code == 2
    assert "'a' is not of the form key=value" in result.output


@pytest.mark.parametrize(
    ("given", "received"), [("json", "json"), ("yaml", "yaml"), ("name", "name"), ("wide", "wide"), ("table", None)]
)
def test_output_modes(given: str, received: str | None) -> None:
    assert CliRunner().invoke(command(opt_output_all), ["-o", given]).output == f"{{'output': {received!r}}}\n"


def test_output_mode_constants_are_text() -> None:
    assert (OutputMode.JSON, OutputMode.YAML, OutputMode.NAME, OutputMode.PATH) == ("json", "yaml", "name", "path")


def test_comma_separated_values_are_stripped_lowered_and_unique_in_order() -> None:
    assert parse_comma_separated(None, None, ["B, a", "b,,C"]) == ["b", "a", "c"]
    assert parse_comma_separated(None, None, "B,b", normalize_case=False) == ["B", "b"]
    assert parse_comma_separated(None, None, None) == []


def test_an_unknown_member_is_refused_with_what_is_allowed() -> None:
    option = opt_comma_separated("with", {"leases", "online", "status"})
    result = CliRunner().invoke(command(option), ["--with", "x,online"])
    assert result.exit_code == 2
    assert "Invalid value(s) ['x']. Allowed values are: leases, online, status" in result.output
    assert CliRunner().invoke(command(option), ["--with", "Online"]).output == "{'with_options': ['online']}\n"


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_blank_name_is_a_usage_error(name: str | None) -> None:
    with pytest.raises(click.UsageError, match="Missing required argument 'NAME'"):
        validate_name(name)


def test_a_name_is_stripped() -> None:
    assert validate_name(" a ") == "a"


def record(name: str, text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, (), None)


def test_the_source_is_shown_once_per_run_of_lines() -> None:
    formatter = SourcePrefixFormatter()
    lines = [formatter.format(record(name, text)) for name, text in (("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"))]
    assert lines == ["[a] 1", "2", "[b] 3", "[a] 4"]


def test_what_is_worse_than_information_shows_its_level() -> None:
    assert SourcePrefixFormatter().format(record("a", "careful", logging.WARNING)) == "[a] WARNING: careful"


def test_logs_go_to_the_present_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    StderrHandler().emit(record("a", "text"))
    assert capsys.readouterr() == ("", "[a] text\n")


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise ValueError("closed")

    monkeypatch.setattr(sys, "stderr", Closed())
    StderrHandler().emit(record("a", "text"))
