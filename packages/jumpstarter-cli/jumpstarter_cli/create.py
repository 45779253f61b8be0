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
    ACQUISITION_TIMEOUT,
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
@click.option("--wait", is_flag=True, help="Wait until the lease has its exporter; print it then.")
@click.option(
    "--timeout",
    type=ACQUISITION_TIMEOUT,
    default=None,
    help="With --wait: how long to wait, at least 5 seconds; by default as the config says.",
)
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
    wait: bool = False,
    timeout: timedelta | None = None,
) -> None:
    """Create a lease and print it, without waiting for its exporter unless --wait is given.

    A wait that is given up, by Ctrl-C or for lack of time, withdraws the request.

    The name of the lease, as printed with `-o name`, can be given to `jmp shell --lease` or put into JMP_LEASE. Release
    the lease with `jmp delete lease NAME`.
    """
    if not selector and not exporter_name:
        raise click.UsageError("one of --selector/-l or --name/-n is required")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout belongs to --wait")
    request = {
        "selector": selector,
        "exporter_name": exporter_name,
        "duration": duration,
        "begin_time": begin_time,
        "lease_id": lease_id,
        "tags": parse_pairs(tags, "tag") or None,
        "allow_disabled": allow_disabled,
    }
    if wait:
        from .waiting import create_and_wait

        lease = create_and_wait(config, request, timeout)
    else:
        lease = config.create_lease(**request)
    _warn_deprecated(getattr(lease, "deprecated_labels", None) or {})
    model_print(lease, output)
    if output is None and not wait:
        announce_duration(duration)
