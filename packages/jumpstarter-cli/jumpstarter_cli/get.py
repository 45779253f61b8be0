"""`jmp get`: lists exporters and leases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import OutputMode, OutputType, opt_comma_separated, opt_output_all
from jumpstarter_cli_common.print import model_print

from .common import opt_selector, print_details
from .login import relogin_client


@click.group("get", cls=AliasedGroup)
def get() -> None:
    """List exporters and leases."""


opt_watch = click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Go on to show what changes: the table anew on a terminal, else a line or an object per change.",
)


def _refuse_with_name(name: str | None, **options: Any) -> None:
    """Refuse options that choose among many when one is named."""
    given = [f"--{option.replace('_', '-')}" for option, value in options.items() if value]
    if name is not None and given:
        raise click.UsageError(f"NAME chooses one; {', '.join(given)} can't be used with it.")


def _show_one(state: Any, output: OutputType) -> None:
    if output is None:
        print_details(state.describe())
    else:
        model_print(state, output)


def _table(fill: Any, output: OutputType, **columns: Any) -> Callable[[list[Any]], Any]:
    """Return what draws a table of items; `fill` makes the model that they are shown by."""

    def draw(items: list[Any]) -> Any:
        from jumpstarter_cli_common.table import Table

        table, model = Table(), fill(items)
        options = {"wide": True} if output == OutputMode.WIDE else columns
        model.rich_add_columns(table, **options)
        model.rich_add_rows(table, **options)
        return table

    return draw


def _warn_deprecated(items: list[Any]) -> None:
    for item in items:
        for label, message in (getattr(item, "deprecated_labels", None) or {}).items():
            text = f"label {label!r} of {item.name} is deprecated" + (f": {message}" if message else "")
            click.echo(f"{click.style('Warning: ', fg='yellow')}{text}", err=True)


@get.command("exporters", short_help="List exporters.")
@opt_config(exporter=False)
@click.argument("name", required=False, default=None)
@opt_selector
@opt_output_all
@opt_comma_separated(
    "with", {"leases", "online", "status"}, help_text="Show more: leases, online, status; comma-separated or repeated."
)
@click.option("--show-hidden-labels", is_flag=True, help="Show labels that are hidden by default.")
@click.option("--allow-disabled", is_flag=True, help="List disabled exporters too.")
@opt_watch
@handle_exceptions_with_reauthentication(relogin_client)
def get_exporters(
    config: Any,
    selector: str | None,
    output: OutputType,
    with_options: list[str],
    show_hidden_labels: bool,
    allow_disabled: bool,
    name: str | None = None,
    watch: bool = False,
) -> None:
    """List the exporters that the controller knows, or show all about the exporter NAME."""
    _refuse_with_name(name, selector=selector, watch=watch, allow_disabled=allow_disabled)
    _refuse_with_name(name, **{"with": with_options})
    if watch:
        sys.exit(_watch_exporters(config, selector, output, with_options, show_hidden_labels, allow_disabled))
    if name is not None:
        _show_one(config.exporter_state(name, show_hidden_labels=show_hidden_labels), output)
        return
    if output == OutputMode.WIDE:
        states = config.list_exporter_states(
            filter=selector, include_disabled=allow_disabled, show_hidden_labels=show_hidden_labels
        )
        _warn_deprecated(states.exporters)
        model_print(states, output)
        return
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


def _watch_exporters(
    config: Any,
    selector: str | None,
    output: OutputType,
    with_options: list[str],
    show_hidden_labels: bool,
    allow_disabled: bool,
) -> int:
    from jumpstarter.client.exporter_states import ExporterStateList
    from jumpstarter.client.records import ExporterList

    from .watching import watch

    shown = with_options or ["leases", "online", "status"]

    def fill(items: list[Any]) -> Any:
        if output == OutputMode.WIDE:
            return ExporterStateList.model_construct(exporters=items)
        # The list leaves out what is disabled; here that is an exporter of which its end is told.
        shown_items = items if allow_disabled else [item.model_copy(update={"enabled": True}) for item in items]
        return ExporterList.model_construct(
            exporters=shown_items,
            include_leases="leases" in shown,
            include_online="online" in shown,
            include_status="status" in shown,
            include_disabled=allow_disabled,
        )

    changes = config.watch_exporters(
        filter=selector, include_disabled=allow_disabled, show_hidden_labels=show_hidden_labels
    )
    return watch(changes, _table(fill, output), output)


@get.command("leases", short_help="List leases.")
@opt_config(exporter=False)
@click.argument("name", required=False, default=None)
@opt_selector
@opt_output_all
@click.option("-a", "--all", "show_all", is_flag=True, help="List leases that have ended too.")
@click.option("-A", "--all-clients", is_flag=True, help="List the leases of all clients.")
@click.option("--tag-filter", default=None, help="Tags that the leases must have, as `key=value`, comma-separated.")
@opt_watch
@handle_exceptions_with_reauthentication(relogin_client)
def get_leases(
    config: Any,
    selector: str | None,
    output: OutputType,
    show_all: bool,
    all_clients: bool,
    tag_filter: str | None,
    name: str | None = None,
    watch: bool = False,
) -> None:
    """List the leases of this client that have not ended, or show all about the lease NAME."""
    _refuse_with_name(name, selector=selector, all=show_all, all_clients=all_clients, tag_filter=tag_filter)
    client = "" if all_clients else config.metadata.name
    if watch:
        if name is not None:
            changes = config.follow_lease(name)
        else:
            changes = config.watch_leases(
                filter=selector, only_active=not show_all, tag_filter=tag_filter, client=client
            )
        sys.exit(_watch_leases(changes, output))
    if name is not None:
        _show_one(config.lease_state(name), output)
        return
    if output == OutputMode.WIDE:
        states = config.list_lease_states(
            filter=selector, only_active=not show_all, tag_filter=tag_filter, client=client
        )
        _warn_deprecated(states.leases)
        model_print(states, output)
        return
    leases = config.list_leases(filter=selector, only_active=not show_all, tag_filter=tag_filter)
    if not all_clients:
        leases = leases.filter_by_client(config.metadata.name)
    _warn_deprecated(leases.leases)
    model_print(leases, output)


def _watch_leases(changes: Any, output: OutputType) -> int:
    from jumpstarter.client.states import LeaseStateList

    from .watching import watch

    return watch(
        changes, _table(lambda items: LeaseStateList.model_construct(leases=items), output, state=True), output
    )
