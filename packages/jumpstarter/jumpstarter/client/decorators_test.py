"""Commands of driver clients, and where their help comes from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jumpstarter.client.decorators import DriverClickGroup, driver_click_command, driver_click_group


def client(description: str | None = None, **methods: str) -> Any:
    return SimpleNamespace(description=description, methods_description=methods)


def power(client: Any, **kwargs: Any) -> DriverClickGroup:
    @driver_click_group(client, **kwargs)
    def base() -> None:
        """Switch power."""

    @base.command
    def on() -> None:
        """Switch on."""
        click.echo("is on")

    @base.command()
    @click.argument("seconds", type=int)
    def cycle_slowly(seconds: int) -> None:
        """Switch off and on."""
        click.echo(f"waited {seconds}")

    @base.command("rescue-mode", help="Start the rescue system.")
    def rescue() -> None:
        """Not shown."""

    @base.group()
    def meter() -> None:
        """Measure."""

    @meter.command()
    def volts() -> None:
        """Measure the voltage."""

    return base


def run(command: click.Command, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    return result.output


def test_group_and_commands_are_called_as_their_functions() -> None:
    base = power(client())
    assert base.name == "base"
    assert set(base.commands) == {"on", "cycle-slowly", "rescue-mode", "meter"}
    assert run(base, "on") == "is on\n"
    assert run(base, "cycle-slowly", "3") == "waited 3\n"


def test_help_comes_from_the_docstrings() -> None:
    output = run(power(client()), "--help")
    assert "Switch power." in output
    assert "Switch on." in output
    assert "Start the rescue system." in output


def test_help_given_to_the_decorator_beats_the_docstring() -> None:
    assert "The supply." in run(power(client(), help="The supply."), "--help")


def test_help_in_the_report_beats_all() -> None:
    told = client(
        "Bench supply.", on="Lights up.", **{"rescue-mode": "Saves.", "cycle-slowly": "Blinks.", "volts": "U."}
    )
    output = run(power(told, help="The supply."), "--help")
    assert "Bench supply." in output
    assert "Lights up." in output
    assert "Saves." in output
    assert "Blinks." in output
    assert "U." in run(power(told), "meter", "--help")


def test_help_is_found_by_the_name_of_the_function_too() -> None:
    assert "Blinks." in run(power(client(cycle_slowly="Blinks.")), "cycle-slowly", "--help")


def test_options_on_the_group_are_kept() -> None:
    @driver_click_group(client())
    @click.option("--level", default="x")
    @click.pass_context
    def base(ctx: click.Context, level: str) -> None:
        ctx.obj = level

    @base.command()
    @click.pass_obj
    def show(level: str) -> None:
        click.echo(level)

    assert run(base, "--level", "7", "show") == "7\n"


@pytest.mark.parametrize(
    ("description", "expected"), [("From the config.", "From the config."), (None, "Take a picture.")]
)
def test_single_command(description: str | None, expected: str) -> None:
    @driver_click_command(client(description))
    @click.argument("path")
    def snapshot(path: str) -> None:
        """Take a picture."""
        click.echo(path)

    assert snapshot.name == "snapshot"
    assert expected in run(snapshot, "--help")
    assert run(snapshot, "a.png") == "a.png\n"
