"""`jmp update`: changes leases."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import OutputType, opt_output_all
from jumpstarter_cli_common.print import model_print

from .common import opt_begin_time, opt_duration_partial
from .login import relogin_client


@click.group("update", cls=AliasedGroup)
def update() -> None:
    """Change leases."""


@update.command("lease", short_help="Change a lease.")
@opt_config(exporter=False)
@click.argument("name")
@opt_duration_partial(default=None)
@opt_begin_time
@click.option("--to-client", default=None, metavar="CLIENT", help="Hand the lease over to this client.")
@opt_output_all
@handle_exceptions_with_reauthentication(relogin_client)
def update_lease(
    config: Any,
    name: str,
    duration: timedelta | None,
    begin_time: datetime | None,
    to_client: str | None,
    output: OutputType,
) -> None:
    """Change how long the lease NAME lasts, when it begins, or whose it is."""
    if duration is None and begin_time is None and not to_client:
        raise click.UsageError("At least one of --duration, --begin-time or --to-client is required")
    client = f"namespaces/{config.metadata.namespace}/clients/{to_client}" if to_client else None
    lease = config.update_lease(name, duration=duration, begin_time=begin_time, client=client)
    model_print(lease, output)
