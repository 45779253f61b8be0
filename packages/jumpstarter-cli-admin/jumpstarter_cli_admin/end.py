"""`jmp admin end`: ends leases, whoever has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import NameOutputType, opt_output_name_only

from .target import Target, opt_target

if TYPE_CHECKING:
    from .backend import Backend


@click.group("end", cls=AliasedGroup)
def end() -> None:
    """End leases of others."""


def end_leases(target: Target, names: tuple[str, ...], reason: str, output: NameOutputType) -> None:
    """End leases one after the other, and say of each that it is done."""

    async def work(backend: Backend) -> None:
        for name in names:
            await backend.end_lease(target.namespace, name, reason)
            click.echo(f"Ended lease '{name}'" if output is None else f"lease.jumpstarter.dev/{name}")

    target.run(work)


@end.command("lease", short_help="End leases.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--reason", default="", help="Why; its owner is told, and it goes into the audit record.")
@opt_target
@opt_output_name_only
@handle_exceptions
def end_lease(target: Target, names: tuple[str, ...], reason: str, output: NameOutputType) -> None:
    """End leases now, whoever has them; those that wait are withdrawn."""
    end_leases(target, names, reason, output)
