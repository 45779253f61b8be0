"""`jmp shell` with a lease: acquired, acquired again when its exporter can't be reached, and released in the end.

What tests replace is looked up in `jumpstarter_cli.shell`, which is where they replace it.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from jumpstarter.client.core import DriverError
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.client.lease import SHARED_ROLES
from jumpstarter.common.exceptions import ConnectionError, ExporterOfflineError, ExporterUnreachableError
from jumpstarter.config.controller import ControllerClient
from jumpstarter_cli_common.exceptions import find_exception_in_group, leaf_exceptions

from . import shell
from .child import Child, obeying_signals
from .shell_token import check_token

RETRY_PAUSE = 1.0
"""Seconds before another lease is tried after an exporter could not be reached."""


async def _shell_with_signal_handling(
    config: Any,
    selector: str | None,
    exporter_name: str | None,
    lease_name: str | None,
    duration: timedelta,
    exporter_logs: bool,
    command: tuple[str, ...],
    acquisition_timeout: timedelta | None,
    retry_timeout: timedelta | None = None,
) -> int:
    """Run the command with a lease; return its exit code. Signals end it and release the lease."""
    check_token(config)
    child = Child(interactive=not command)

    async def work() -> int:
        name = lease_name
        if not (selector or exporter_name or name):
            name = await shell._resolve_lease_from_active_async(config)
        wanted = (selector, exporter_name, name, duration)
        async with BlockingPortal() as portal:
            code = await _with_retries(
                config, portal, wanted, acquisition_timeout, retry_timeout, exporter_logs, command, child
            )
        return code

    return await obeying_signals(child, work)


async def _resolve_lease_from_active_async(config: Any) -> str:
    """Return the name of the lease to use when none was asked for: the only active one, or the one that is picked.

    Raises:
        click.UsageError: there is none, or there are several and nobody can be asked.
    """
    found = await config.list_leases(only_active=True)
    leases = [lease for lease in found.leases if lease.client == config.metadata.name]
    leases += await _shared_leases(config, found.leases)
    if not leases:
        raise shell.click.UsageError(
            "no active leases found; give --selector/-l or --name/-n to lease an exporter, or --lease to use a lease"
        )
    if len(leases) == 1:
        return str(leases[0].name)
    if not sys.stdin.isatty():
        names = ", ".join(lease.name for lease in leases)
        raise shell.click.UsageError(f"you have several active leases, choose one with --lease: {names}")
    for number, lease in enumerate(leases, 1):
        shared = f"  ({lease.role} of {lease.client})" if getattr(lease, "role", "") in SHARED_ROLES else ""
        shell.click.echo(f"{number}: {lease.name}  {getattr(lease, 'exporter', '') or ''}{shared}", err=True)
    picked = await to_thread.run_sync(
        lambda: shell.click.prompt("Lease to use", type=shell.click.IntRange(1, len(leases)), err=True),
        abandon_on_cancel=True,
    )
    return str(leases[picked - 1].name)


async def _shared_leases(config: Any, leases: Any) -> list[Any]:
    """Return the leases of others that are shared with this client; none where nobody can tell."""
    others = any(lease.client != config.metadata.name for lease in leases)
    if not others or not issubclass(type(config), ControllerClient):
        return []
    states = (await config.list_lease_states(only_active=True)).leases
    return [state for state in states if state.role in SHARED_ROLES]


def _tell_role(lease: Any) -> None:
    """Say what a client may do with a lease that is not its own."""
    if (role := getattr(lease, "role", None)) not in SHARED_ROLES:
        return
    may = "you can look on, but not drive it" if role == "watcher" else "it stays theirs when you leave"
    shell.click.echo(f"Exporter {lease.exporter_name}, shared with you as {role}: {may}.", err=True)


async def _with_retries(
    config: Any,
    portal: BlockingPortal,
    wanted: tuple[str | None, str | None, str | None, timedelta],
    acquisition_timeout: timedelta | None,
    retry_timeout: timedelta | None,
    exporter_logs: bool,
    command: tuple[str, ...],
    child: Child,
) -> int:
    """Lease and run; when the exporter of a new lease can't be reached, release it and lease again for a while."""
    deadline: float | None = None
    while True:
        limit, begun = 0.0, None
        try:
            async with config.lease_async(*wanted, portal, acquisition_timeout, retry_timeout=retry_timeout) as lease:
                limit, begun = lease.retry_timeout, time.monotonic()
                return await _with_one_lease(lease, config, wanted[0], exporter_logs, command, child)
        except (ExporterUnreachableError, BaseExceptionGroup) as error:
            unreachable = find_exception_in_group(error, ExporterUnreachableError)
            if unreachable is None:
                raise _first_leaf(error) from error
            _check_not_over(begun, wanted)
            deadline = deadline if deadline is not None else time.monotonic() + limit
            if time.monotonic() + RETRY_PAUSE >= deadline:
                if limit > 0:
                    raise ExporterUnreachableError(f"{unreachable.message} after {limit:g}s of retrying") from None
                raise unreachable from None
            shell.click.echo(f"{unreachable}; trying another lease.", err=True)
        await anyio.sleep(RETRY_PAUSE)


def _check_not_over(begun: float | None, wanted: tuple[str | None, str | None, str | None, timedelta]) -> None:
    """Raise LeaseError when a lease of our own ended before it could be used; another one would end as this did."""
    *_, lease_name, duration = wanted
    if begun is not None and not lease_name and time.monotonic() - begun >= duration.total_seconds():
        raise LeaseError(
            f"the lease was over after {duration.total_seconds():g}s, before its exporter was ready: a hook may take "
            "longer; ask for more time with --duration"
        )


def _first_leaf(error: BaseException) -> BaseException:
    """Return the exception that tells most: one of ours before others."""
    leaves = leaf_exceptions(error)
    return next((leaf for leaf in leaves if isinstance(leaf, LeaseError | ConnectionError | DriverError)), leaves[0])


async def _with_one_lease(
    lease: Any, config: Any, selector: str | None, exporter_logs: bool, command: tuple[str, ...], child: Child
) -> int:
    token_state: dict[str, Any] = {}
    _tell_role(lease)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shell._monitor_token_expiry, config, lease, tasks.cancel_scope, token_state)
            code = await shell._run_shell_with_lease_async(
                lease, exporter_logs, config, command, tasks.cancel_scope, child
            )
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if find_exception_in_group(group, ExporterUnreachableError) is not None:
            raise
        return _judge_failure(group, lease, command)
    if lease.release and lease.name and token_state.get("expired_unrecovered"):
        shell._warn_about_expired_token(lease.name, selector)
    return code


def _judge_failure(group: BaseExceptionGroup[Any], lease: Any, command: tuple[str, ...]) -> int:
    """Return 0 when a shell was ended because its lease was; raise what the failure means otherwise."""
    if lease.lease_ended:
        if command:
            # Whoever asked for a command takes 0 for its success, and it may not even have begun.
            raise LeaseError(f"lease {lease.name} ended before the command was through; ask for more with --duration")
        return 0
    leaves = leaf_exceptions(group)
    if any(isinstance(leaf, shell.click.ClickException | shell.click.exceptions.Exit) for leaf in leaves):
        raise leaves[0]
    if getattr(lease, "lease_transferred", False) is True:
        if getattr(lease, "role", None) in SHARED_ROLES:
            raise ExporterOfflineError(f"Lease {lease.name} is not shared with you any more") from leaves[0]
        raise ExporterOfflineError(f"Lease {lease.name} was transferred to another client") from leaves[0]
    raise ExporterOfflineError("Connection to exporter lost") from _first_leaf(group)
