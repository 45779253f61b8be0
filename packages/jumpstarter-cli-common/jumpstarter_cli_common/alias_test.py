"""Groups whose commands answer to aliases."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from .alias import AliasedGroup


def group_with(*names: str) -> click.Group:
    group = AliasedGroup("root")
    for name in names:
        group.add_command(click.Command(name, callback=lambda name=name: click.echo(name)))
    return group


@pytest.mark.parametrize(
    ("command", "alias"),
    [
        ("list", "ls"),
        ("delete", "rm"),
        ("delete", "d"),
        ("delete", "del"),
        ("lease", "leases"),
        ("leases", "lease"),
        ("leases", "l"),
        ("exporters", "exporter"),
        ("exporter", "exporters"),
        ("client", "clients"),
        ("shell", "sh"),
        ("config", "conf"),
        ("version", "ver"),
    ],
)
def test_an_alias_runs_its_command(command: str, alias: str) -> None:
    result = CliRunner().invoke(group_with(command, "other"), [alias])
    assert (result.exit_code, result.output) == (0, f"{command}\n")


def test_an_exact_name_wins_over_an_alias() -> None:
    result = CliRunner().invoke(group_with("client", "c"), ["c"])
    assert result.output == "c\n"


def test_an_alias_of_several_commands_is_refused_with_their_names() -> None:
    result = CliRunner().invoke(group_with("create", "client"), ["c"])
    assert result.exit_code == 2
    assert "client, create" in result.output


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(group_with("list"), ["nope"])
    assert result.exit_code == 2
    assert "nope" in result.output


def test_usage_lines_show_the_canonical_name() -> None:
    result = CliRunner().invoke(group_with("list"), ["ls", "--help"])
    assert "Usage: root list" in result.output


def test_completion_after_an_unknown_word_finds_nothing_instead_of_failing() -> None:
    from click.shell_completion import ShellComplete

    completer = ShellComplete(group_with("list"), {}, "root", "_ROOT_COMPLETE")
    assert completer.get_completions(["nope"], "") is not None
