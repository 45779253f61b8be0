"""The version command, and the version as text and as an object."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .opt import OutputMode, OutputType, opt_output_all

if TYPE_CHECKING:
    from ._version_model import JumpstarterVersion

DISTRIBUTION = "jumpstarter"
UNKNOWN = "unknown"


def __getattr__(name: str) -> Any:
    # The model needs pydantic, which costs more than everything else that the command does.
    if name == "JumpstarterVersion":
        from ._version_model import JumpstarterVersion

        return JumpstarterVersion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_client_version() -> str:
    """Return the version of the installed core, or `unknown` when it has no metadata (a bare source tree)."""
    # importlib.metadata would find the same directory at several times the cost of the whole command.
    prefix, suffix = f"{DISTRIBUTION}-", ".dist-info"
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        for name in names:
            if name.startswith(prefix) and name.endswith(suffix):
                return name[len(prefix) : -len(suffix)]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return UNKNOWN


def get_cli_path() -> str:
    """Return the directory that holds the package."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def version_msg() -> str:
    """Return the line that `version` prints."""
    return f"Jumpstarter v{get_client_version()} from {get_cli_path()} (Python {sys.version})"


def version_obj() -> JumpstarterVersion:
    """Return what `version -o json` prints."""
    from ._version_model import JumpstarterVersion

    return JumpstarterVersion(gitVersion=get_client_version(), pythonVersion=sys.version)


@click.command("version")
@opt_output_all
def version(output: OutputType) -> None:
    """Show the version."""
    if output == OutputMode.JSON:
        click.echo(version_obj().dump_json())
    elif output == OutputMode.YAML:
        click.echo(version_obj().dump_yaml())
    else:
        click.echo(version_msg())


def opt_version(command: Any) -> Any:
    """Decorate a program's root group with `--version`."""

    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(version_msg())
            ctx.exit()

    return click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=show, help="Show the version and exit."
    )(command)
