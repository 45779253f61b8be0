"""Groups that load their commands when they are used."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from .lazy import LazyCommand, LazyGroup

MODULE = "lazily_loaded_for_a_test"


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyGroup]:
    (tmp_path / f"{MODULE}.py").write_text(
        textwrap.dedent(
            """
            import click

            @click.command("greet")
            def greet():
                "Say hello."
                click.echo("hello")

            nothing = 3
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield LazyGroup(
        "root",
        lazy={
            "greet": LazyCommand(f"{MODULE}:greet", "Say hello."),
            "secret": LazyCommand(f"{MODULE}:greet", "Say it quietly.", hidden=True),
            "wrong": LazyCommand(f"{MODULE}:nothing", "Not a command."),
        },
    )
    sys.modules.pop(MODULE, None)


def test_help_lists_the_commands_without_loading_them(group: LazyGroup) -> None:
    result = CliRunner().invoke(group, ["--help"])
    assert "greet   Say hello." in result.output or "greet  Say hello." in result.output
    assert MODULE not in sys.modules


def test_hidden_commands_are_not_listed_but_run(group: LazyGroup) -> None:
    assert "secret" not in CliRunner().invoke(group, ["--help"]).output
    assert CliRunner().invoke(group, ["secret"]).output == "hello\n"


def test_a_command_is_loaded_and_run_when_it_is_called(group: LazyGroup) -> None:
    assert CliRunner().invoke(group, ["greet"]).output == "hello\n"
    assert MODULE in sys.modules


def test_completion_of_names_loads_no_command(group: LazyGroup) -> None:
    items = ShellComplete(group, {}, "root", "_ROOT_COMPLETE").get_completions([], "gr")
    assert [(item.value, item.help) for item in items] == [("greet", "Say hello.")]
    assert MODULE not in sys.modules


def test_the_group_can_be_walked_like_any_other(group: LazyGroup) -> None:
    with click.Context(group) as ctx:
        names = group.list_commands(ctx)
        found = group.get_command(ctx, "greet")
    assert names == ["greet", "secret", "wrong"]
    assert isinstance(found, click.Command)
    assert group.commands["greet"] is found


def test_commands_can_be_added_and_removed(group: LazyGroup) -> None:
    group.add_command(click.Command("extra", help="Do more."))
    assert "extra" in CliRunner().invoke(group, ["--help"]).output
    del group.commands["extra"]
    assert "extra" not in group.commands


def test_what_is_no_command_is_named_in_the_error(group: LazyGroup) -> None:
    with pytest.raises(TypeError, match=f"{MODULE}:nothing is a int"):
        group.commands["wrong"]
