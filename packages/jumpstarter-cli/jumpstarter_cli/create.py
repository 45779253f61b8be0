"""`jmp create`: asks the controller for leases."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import OutputType, opt_output_all
from jumpstarter_cli_common.print import model_print

from .common import (
    announce_duration,
    opt_begin_time,
    opt_duration_partial,
    opt_exporter_name,
    opt_selector,
    parse_pairs,
)
from .login import relogin_client


@click.group("create", cls=AliasedGroup)
def create() -> None:
    """Create leases."""


def _warn_deprecated(labels: dict[str, str]) -> None:
    """Warn on stderr of each label of the selector that should not be used any more; `labels` maps it to a message."""
    for label, message in labels.items():
        text = f"label {label!r} is deprecated" + (f": {message}" if message else "")
        click.echo(f"{click.style('Warning: ', fg='yellow')}{text}", err=True)


@create.command("lease", short_help="Create a lease.")
@opt_config(exporter=False)
@opt_selector
@opt_exporter_name
@opt_duration_partial(required=True)
@opt_begin_time
@click.option("--lease-id", default=None, help="Name of the lease; by default the controller makes one.")
@click.option("--tag", "tags", multiple=True, help="Tag as key=value; repeatable.")
@click.option("--allow-disabled", is_flag=True, help="With --name: take the exporter even if it is disabled.")
@opt_output_all
@handle_exceptions_with_reauthentication(relogin_client)
def create_lease(
    config: Any,
    selector: str | None,
    exporter_name: str | None,
    duration: timedelta,
    begin_time: datetime | None,
    lease_id: str | None,
    tags: tuple[str, ...],
    allow_disabled: bool,
    output: OutputType,
) -> None:
    """Create a lease and print it, without waiting for its exporter.

    The name of the lease, as printed with `-o name`, can be given to `jmp shell --lease` or put into JMP_LEASE. Release
    the lease with `jmp delete lease NAME`.
    """
    if not selector and not exporter_name:
        raise click.UsageError("one of --selector/-l or --name/-n is required")
    pairs = parse_pairs(tags, "tag")
    lease = config.create_lease(
        selector=selector,
        exporter_name=exporter_name,
        duration=duration,
        begin_time=begin_time,
        lease_id=lease_id,
        tags=pairs or None,
        allow_disabled=allow_disabled,
    )
    _warn_deprecated(getattr(lease, "deprecated_labels", None) or {})
    model_print(lease, output)
    if output is None:
        announce_duration(duration)
