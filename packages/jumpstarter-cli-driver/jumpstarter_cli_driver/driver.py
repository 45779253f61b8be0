"""The group `jmp driver` and its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from jumpstarter_cli_common.entry import MainGroup
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.lazy import LazyCommand
from jumpstarter_cli_common.opt import OutputMode, OutputType, PathOutputType, opt_log_level, opt_output_all
from jumpstarter_cli_common.opt import opt_output_path_only as opt_path
from jumpstarter_cli_common.print import dump_json, dump_yaml, model_print

from .installed import DriverList, InstalledDriver, find_drivers, installed_drivers

NOT_INSTALLED_HINT = "`jmp driver list` shows what is installed; each driver family is a package of its own."


@click.group(
    "driver",
    cls=MainGroup,
    lazy={"version": LazyCommand("jumpstarter_cli_common.version:version", "Show the version.")},
)
@opt_log_level
def driver() -> None:
    """List, show, check and write drivers."""


def _complete_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    return sorted({found.name for found in installed_drivers() if found.name.startswith(incomplete)})


def _find(name: str) -> list[InstalledDriver]:
    found = find_drivers(name, installed_drivers())
    if not found:
        raise ClickExceptionRed(f"No driver '{name}' is installed.", reason="not-found", hint=NOT_INSTALLED_HINT)
    return found


@driver.command("list", short_help="List the installed drivers.")
@opt_output_all
@handle_exceptions
def list_drivers(output: OutputType) -> None:
    """List the installed drivers; TYPE is what an exporter config names."""
    model_print(DriverList(installed_drivers()), output)


@driver.command("show", short_help="Show settings and methods of a driver.")
@click.argument("name", shell_complete=_complete_names)
@opt_output_all
@handle_exceptions
def show_driver(name: str, output: OutputType) -> None:
    """Show the settings, methods and requirements of the driver NAME, which may also be a TYPE."""
    from .description import DriverDescription

    found = _find(name)
    if len({item.type for item in found}) > 1:
        types = ", ".join(item.type for item in found)
        raise ClickExceptionRed(f"Several drivers are called '{name}': give one of {types}.", reason="ambiguous")
    try:
        description = DriverDescription(found[0], found[0].load())
    except (ImportError, AttributeError) as error:
        raise ClickExceptionRed(
            f"The driver {found[0].type} can't be loaded: {error}",
            reason="missing-driver",
            hint=f"Reinstall {found[0].package or 'its package'}, and see `jmp driver doctor {name}`.",
        ) from error
    if output == OutputMode.NAME:
        click.echo(found[0].name)
    elif output == OutputMode.JSON:
        click.echo(dump_json(description))
    elif output == OutputMode.YAML:
        click.echo(dump_yaml(description), nl=False)
    else:
        click.echo(description.text())


@driver.command("doctor", short_help="Check what drivers need of this system.")
@click.argument("names", nargs=-1, shell_complete=_complete_names)
@opt_output_all
@click.pass_context
@handle_exceptions
def doctor(ctx: click.Context, names: tuple[str, ...], output: OutputType) -> None:
    """Check whether programs, devices and libraries are there that the drivers NAMES need, or all drivers.

    Exits with 1 when something is missing that is needed.
    """
    from .requirements import Findings, examine

    chosen = [found for name in names for found in _find(name)] if names else installed_drivers()
    findings = Findings([finding for found in chosen for finding in examine(found.name, found.load)])
    model_print(findings, output)
    ctx.exit(int(findings.failed))


@driver.command("new", short_help="Write the start of a new driver.")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder in which the folder of the package is made.",
)
@click.option("--class-name", default=None, help="Name of the driver class; by default made from NAME.")
@click.option("--description", default=None, help="One line that says what the driver is for.")
@click.option("--author", default=None, help='Author, as "Name <mail@example.com>".')
@opt_path
@handle_exceptions
def new_driver(
    name: str, out: Path, class_name: str | None, description: str | None, author: str | None, output: PathOutputType
) -> None:
    """Write the package of a new driver NAME: a driver and a client that work, tests that pass, README and config."""
    from .scaffold import DriverNames, write_package

    names = DriverNames.from_name(name, class_name)
    folder = write_package(names, out, description=description, author=author)
    if output == OutputMode.PATH:
        click.echo(str(folder))
        return
    click.echo(f"Wrote the package {names.distribution} to {folder}.")
    click.echo(f"Try it:\n  pip install -e '{folder}[test]'\n  pytest {folder}")
    click.echo(f"  jmp shell --exporter-config {folder}/examples/exporter.yaml -- j {names.instance} --help")
