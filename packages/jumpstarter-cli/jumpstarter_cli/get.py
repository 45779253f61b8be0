"""`jmp get`: lists exporters and leases."""

from __future__ import annotations

from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import OutputType, opt_comma_separated, opt_output_all
from jumpstarter_cli_common.print import model_print

from .common import opt_selector
from .login import relogin_client


@click.group("get", cls=AliasedGroup)
def get() -> None:
    """List exporters and leases."""


def _warn_deprecated(items: list[Any]) -> None:
    for item in items:
        for label, message in (getattr(item, "deprecated_labels", None) or {}).items():
            text = f"label {label!r} of {item.name} is deprecated" + (f": {message}" if message else "")
            click.echo(f"{click.style('Warning: ', fg='yellow')}{text}", err=True)


@get.command("exporters", short_help="List exporters.")
@opt_config(exporter=False)
@opt_selector
@opt_output_all
@opt_comma_separated(
    "with", {"leases", "online", "status"}, help_text="Show more: leases, online, status; comma-separated or repeated."
)
@click.option("--show-hidden-labels", is_flag=True, help="Show labels that are hidden by default.")
@click.option("--allow-disabled", is_flag=True, help="List disabled exporters too.")
@handle_exceptions_with_reauthentication(relogin_client)
def get_exporters(
    config: Any,
    selector: str | None,
    output: OutputType,
    with_options: list[str],
    show_hidden_labels: bool,
    allow_disabled: bool,
) -> None:
    """List the exporters that the controller knows."""
    exporters = config.list_exporters(
        filter=selector,
        include_leases="leases" in with_options,
        include_online="online" in with_options,
        include_status="status" in with_options,
        show_hidden_labels=show_hidden_labels,
        include_disabled=allow_disabled,
    )
    _warn_deprecated(exporters.exporters)
    model_print(exporters, output)


@get.command("leases", short_help="List leases.")
@opt_config(exporter=False)
@opt_selector
@opt_output_all
@click.option("-a", "--all", "show_all", is_flag=True, help="List leases that have ended too.")
@click.option("-A", "--all-clients", is_flag=True, help="List the leases of all clients.")
@click.option("--tag-filter", default=None, help="Tags that the leases must have, as `key=value`, comma-separated.")
@handle_exceptions_with_reauthentication(relogin_client)
def get_leases(
    config: Any,
    selector: str | None,
    output: OutputType,
    show_all: bool,
    all_clients: bool,
    tag_filter: str | None,
) -> None:
    """List the leases of this client that have not ended."""
    leases = config.list_leases(filter=selector, only_active=not show_all, tag_filter=tag_filter)
    if not all_clients:
        leases = leases.filter_by_client(config.metadata.name)
    _warn_deprecated(leases.leases)
    model_print(leases, output)
