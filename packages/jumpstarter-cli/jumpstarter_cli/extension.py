"""Commands of packages that may not be installed: the command, or one in its place that says how to get it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click
from jumpstarter_cli_common.exceptions import ClickExceptionRed


def missing(name: str, distribution: str, summary: str) -> click.Command:
    """Return the command that stands in for `jmp <name>` while its distribution is not installed."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True},
        short_help=summary,
        help=f"{summary}\n\nThe commands are in the package {distribution}, which is not installed.",
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def stand_in(arguments: tuple[str, ...]) -> None:
        raise ClickExceptionRed(
            f"`jmp {name}` is in the package {distribution}, which is not installed.",
            reason="missing-package",
            hint=f"Install it where jmp is installed: pip install {distribution}",
        )

    return stand_in


def extension(target: str, stand_in: click.Command) -> click.Command:
    """Return the command at `module:attribute`, or `stand_in` when the package of the module is not installed."""
    module, _, attribute = target.partition(":")
    if find_spec(module.partition(".")[0]) is None:
        return stand_in
    command: click.Command = getattr(import_module(module), attribute)
    return command
