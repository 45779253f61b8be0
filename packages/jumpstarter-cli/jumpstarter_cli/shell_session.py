"""What `jmp shell` does with an exporter that it has got: connect, wait for the hook, run the command, end the session.

What tests replace is looked up in `jumpstarter_cli.shell`, which is where they replace it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from jumpstarter.client.core import DriverError
from jumpstarter.common import HOOK_WARNING_PREFIX, ExporterStatus
from jumpstarter.common.exceptions import ExporterOfflineError

from . import shell
from .child import Child, use_profiles
from .prompt import beside_prompt

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOOK_TIMEOUT = 300.0
"""Seconds to wait for the hook before, and the one after the lease."""
END_SESSION_TIMEOUT = 10.0
LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether waiting makes sense."""
LAST_LOOKS = 3
"""Looks in a row without hope after which it makes none."""


async def _run_shell_with_lease_async(
    lease: Any,
    exporter_logs: bool,
    config: Any,
    command: tuple[str, ...],
    cancel_scope: anyio.CancelScope | None,
    child: Child | None = None,
) -> int:
    """Connect to the exporter of a lease, wait for its hook, run the command, and end the session."""
    async with lease.serve_unix_async() as path, lease.monitor_async():
        with ExitStack() as stack:
            async with (
                shell.client_from_path(path, lease.portal, stack, **_connection(lease)) as client,
                client.log_stream_async(show_all_logs=exporter_logs),
                client.status_monitor_async(poll_interval=0.3) as monitor,
            ):
                await _wait_until_ready(client, monitor, lease)
                launch = partial(shell._run_shell_only, lease, config, command, path, child)
                if child is None:
                    code = await to_thread.run_sync(launch)
                else:
                    with beside_prompt(child):
                        code = await child.run(launch)
                if _owns_session(lease) and not (cancel_scope is not None and cancel_scope.cancel_called):
                    await _end_session(client, monitor, lease)
                return code


def _run_shell_only(
    lease: Any, config: Any, command: tuple[str, ...], path: Any, child: Child | None = None, motd: str | None = None
) -> int:
    """Run the command with the session at `path`, in this thread, and return its exit code."""
    direct = config is None or not hasattr(lease, "namespace")
    return shell.launch_shell(
        str(path),
        lease.exporter_name,
        lease.allow if direct else config.drivers.allow,
        lease.unsafe if direct else config.drivers.unsafe,
        use_profiles(config),
        command=command or None,
        lease=lease,
        insecure=getattr(lease, "insecure", False) is True,
        passphrase=getattr(lease, "passphrase", None) if direct else None,
        motd=motd,
        on_start=child.started if child is not None else None,
    )


def _connection(lease: Any) -> dict[str, Any]:
    return {
        "allow": lease.allow,
        "unsafe": lease.unsafe,
        "tls_config": getattr(lease, "tls_config", None),
        "grpc_options": getattr(lease, "grpc_options", None),
        "insecure": getattr(lease, "insecure", False),
        "passphrase": getattr(lease, "passphrase", None),
    }


async def _wait_until_ready(client: Any, monitor: Any, lease: Any) -> None:
    """Wait for the hook before the lease.

    Raises:
        ExporterOfflineError: the exporter was lost meanwhile, or its hook failed or took too long.
    """
    if await client.get_status_async() is None:
        # An exporter without a notion of status is ready when it answers.
        return
    reached = await shell._cancel_if_connection_lost(
        monitor,
        monitor.wait_for_any_of(
            [ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK_FAILED], timeout=HOOK_TIMEOUT
        ),
        lambda: _has_ended(lease),
    )
    message = str(monitor.status_message or "")
    if reached == ExporterStatus.BEFORE_LEASE_HOOK_FAILED:
        raise ExporterOfflineError(f"The hook before the lease failed on {lease.exporter_name}: {message}")
    if monitor.connection_lost:
        raise ExporterOfflineError("Connection to exporter lost")
    if reached is None:
        raise ExporterOfflineError(f"The exporter {lease.exporter_name} was not ready within {HOOK_TIMEOUT:.0f} s")
    if message.startswith(HOOK_WARNING_PREFIX):
        shell.warn(message.removeprefix(HOOK_WARNING_PREFIX))


def _owns_session(lease: Any) -> bool:
    """Whether this shell ends the session: the lease is its own, and still there."""
    return bool(lease.release and lease.name and not lease.lease_ended)


async def _end_session(client: Any, monitor: Any, lease: Any) -> None:
    """Have the hook after the lease run while its log can still be shown; failures only mean that it runs later."""
    try:
        status = await client.get_status_async()
    except DriverError:
        monitor._connection_lost = True
        return
    if status not in (ExporterStatus.LEASE_READY, ExporterStatus.AFTER_LEASE_HOOK) or lease.lease_ended:
        return
    with anyio.move_on_after(END_SESSION_TIMEOUT) as limit:
        try:
            if not await client.end_session_async():
                return
        except DriverError as error:
            logger.debug("the session could not be ended: %s", error)
            return
    if limit.cancelled_caught:
        return
    await shell._cancel_if_connection_lost(
        monitor,
        monitor.wait_for_any_of(
            [ExporterStatus.AVAILABLE, ExporterStatus.AFTER_LEASE_HOOK_FAILED], timeout=HOOK_TIMEOUT
        ),
        # One that serves clients again has started anew and knows nothing of the end of the session.
        lambda: _has_ended(lease) or monitor.current_status == ExporterStatus.LEASE_READY,
    )
    message = str(monitor.status_message or "")
    if message.startswith(HOOK_WARNING_PREFIX):
        shell.warn(message.removeprefix(HOOK_WARNING_PREFIX))
    elif monitor.current_status == ExporterStatus.AFTER_LEASE_HOOK_FAILED:
        shell.warn(f"the hook after the lease failed: {message}")


def _has_ended(lease: Any) -> bool:
    """Whether the lease has ended, so that nobody is let through to the exporter any more."""
    return getattr(lease, "lease_ended", False) is True


async def _cancel_if_connection_lost(
    monitor: Any, coro: Coroutine[Any, Any, T], hopeless: Callable[[], bool] = lambda: False
) -> T | None:
    """Return the result of `coro`, or None as soon as the connection to the exporter is lost.

    Also None when there is no hope at several looks in a row: the exporter's last status may be on its way.
    """
    result: list[T] = []

    async def run() -> None:
        result.append(await coro)
        tasks.cancel_scope.cancel()

    looks = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not monitor.connection_lost and looks < LAST_LOOKS:
            await anyio.sleep(LOOK_INTERVAL)
            looks = looks + 1 if hopeless() else 0
        tasks.cancel_scope.cancel()
    return result[0] if result else None
