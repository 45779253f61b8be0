"""`jmp update`: changes leases."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import click
from jumpstarter.config.env import JMP_LEASE
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions_with_reauthentication
from jumpstarter_cli_common.opt import OutputType, opt_output_all
from jumpstarter_cli_common.print import model_print

from .common import POSITIVE_DURATION, opt_begin_time, opt_duration_partial
from .login import relogin_client

SHARED_ROLES = ("driver", "watcher")


@click.group("update", cls=AliasedGroup)
def update() -> None:
    """Change leases."""


@update.command("lease", short_help="Change a lease.")
@opt_config(exporter=False)
@click.argument("name", envvar=JMP_LEASE)
@opt_duration_partial(default=None)
@opt_begin_time
@click.option("--to-client", default=None, metavar="CLIENT", help="Hand the lease over to this client.")
@click.option(
    "--extend",
    type=POSITIVE_DURATION,
    default=None,
    metavar="DURATION",
    help="End it later than it would now, by so much: 30m, 1h30m.",
)
@click.option(
    "--share",
    multiple=True,
    metavar="CLIENT[=ROLE]",
    help="Let this client use it too, as `driver`, who may do all that you may, or as `watcher`, who may look on; "
    "driver by default. Repeatable.",
)
@click.option("--unshare", multiple=True, metavar="CLIENT", help="Take the role of this client away. Repeatable.")
@opt_output_all
@handle_exceptions_with_reauthentication(relogin_client)
def update_lease(
    config: Any,
    name: str,
    duration: timedelta | None,
    begin_time: datetime | None,
    to_client: str | None,
    output: OutputType,
    extend: timedelta | None = None,
    share: tuple[str, ...] = (),
    unshare: tuple[str, ...] = (),
) -> None:
    """Change how long the lease NAME lasts, when it begins, whose it is, or who may use it too.

    Inside `jmp shell`, NAME is the lease of the shell unless another one is given.
    """
    changed = duration is not None or begin_time is not None or extend is not None or bool(to_client)
    if not (changed or share or unshare):
        raise click.UsageError(
            "At least one of --duration, --extend, --begin-time, --to-client, --share or --unshare is required"
        )
    if extend is not None and duration is not None:
        raise click.UsageError("--extend adds to the present end and --duration replaces it; give one of them")
    roles = _roles(share, unshare)
    # Only the owner may share, so that comes before handing over.
    lease = None
    for client, role in roles.items():
        lease = config.share_lease(name, client, role)
    if changed:
        if extend is not None:
            duration = _extended(config.lease_state(name), extend)
        owner = f"namespaces/{config.metadata.namespace}/clients/{to_client}" if to_client else None
        lease = config.update_lease(name, duration=duration, begin_time=begin_time, client=owner)
    model_print(lease, output)
    if output is None:
        for other, role in roles.items():
            text = f"shared with {other} as {role}" if role else f"not shared with {other} any more"
            click.echo(f"Lease {name} is {text}.", err=True)


def _roles(share: Iterable[str], unshare: Iterable[str]) -> dict[str, str | None]:
    """Return the roles to give by client, None for those to take away.

    Raises:
        click.UsageError: a role is unknown, or a client is named twice.
    """
    roles: dict[str, str | None] = {}
    for text in share:
        client, equals, role = text.partition("=")
        if not client or (equals and role not in SHARED_ROLES):
            raise click.UsageError(f"{text!r} can't be shared; write --share CLIENT=ROLE, with driver or watcher.")
        if client in roles:
            raise click.UsageError(f"{client!r} is named twice.")
        roles[client] = role or "driver"
    for client in unshare:
        if client in roles:
            raise click.UsageError(f"{client!r} is named twice.")
        roles[client] = None
    return roles


def _extended(state: Any, by: timedelta) -> timedelta:
    """Return the whole duration of a lease that shall last longer than it would now.

    Raises:
        ClickExceptionRed: it has ended, or its end isn't known.
    """
    if state.ended:
        raise ClickExceptionRed(
            f"lease {state.name} has ended and can't be extended",
            reason="lease-ended",
            hint="Request a new one with `jmp create lease` or `jmp shell`.",
        )
    begin = state.effective_begin_time
    if begin is not None and state.until is not None:
        return timedelta(seconds=round((state.until - begin + by).total_seconds()))
    if state.duration is None:
        raise ClickExceptionRed(f"lease {state.name} has no duration that could be extended", reason="lease")
    return state.duration + by
