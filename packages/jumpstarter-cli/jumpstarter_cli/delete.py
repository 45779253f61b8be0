"""`jmp delete`: releases leases."""

from __future__ import annotations

from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import NameOutputType, OutputMode, opt_output_name_only

from .common import opt_selector
from .login import relogin_client


@click.group("delete", cls=AliasedGroup)
def delete() -> None:
    """Delete leases."""


@delete.command("leases", short_help="Release leases.")
@opt_config(exporter=False)
@click.argument("names", nargs=-1)
@opt_selector
@click.option("-a", "--all", "delete_all", is_flag=True, help="Release all leases of this client.")
@click.option("-A", "--all-clients", is_flag=True, help="Release the leases of all clients.")
@opt_output_name_only
@handle_exceptions_with_reauthentication(relogin_client)
def delete_leases(
    config: Any,
    names: tuple[str, ...],
    selector: str | None,
    delete_all: bool,
    all_clients: bool,
    output: NameOutputType,
) -> None:
    """Release the leases NAMES, or those that the options choose."""
    chosen = list(names) or _choose(config, selector, delete_all=delete_all, all_clients=all_clients)
    if not chosen:
        raise ClickExceptionRed("no leases found matching the criteria", reason="not-found")
    for name in chosen:
        config.delete_lease(name=name)
        click.echo(name if output == OutputMode.NAME else f'lease "{name}" deleted')


def _choose(config: Any, selector: str | None, *, delete_all: bool, all_clients: bool) -> list[str]:
    if not (selector or delete_all or all_clients):
        raise ClickExceptionRed(
            "One of NAMES, --selector, --all or --all-clients must be specified",
            reason="usage",
            hint="`jmp get leases` lists them.",
        )
    leases = config.list_leases(filter=selector).leases
    return [lease.name for lease in leases if all_clients or lease.client == config.metadata.name]
