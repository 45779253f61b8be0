"""The place of `jmp admin`: the commands of the admin package, or a word on how to get them."""

from __future__ import annotations

from importlib.util import find_spec

import click
from jumpstarter_cli_common.exceptions import ClickExceptionRed

DISTRIBUTION = "jumpstarter-cli-admin"


@click.command(
    "admin",
    context_settings={"ignore_unknown_options": True},
    short_help="Administer clients, exporters and leases.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def missing_admin(arguments: tuple[str, ...]) -> None:
    """Administer clients, exporters and leases.

    The commands are in the package jumpstarter-cli-admin, which is not installed.
    """
    raise ClickExceptionRed(
        f"`jmp admin` is in the package {DISTRIBUTION}, which is not installed.",
        reason="missing-package",
        hint=f"Install it where jmp is installed: pip install {DISTRIBUTION}",
    )


def _find_admin() -> click.Command:
    if find_spec("jumpstarter_cli_admin") is None:
        return missing_admin
    from jumpstarter_cli_admin import admin as installed  # type: ignore[import-not-found]

    return installed


admin = _find_admin()
