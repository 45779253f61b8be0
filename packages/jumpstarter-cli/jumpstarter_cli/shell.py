"""`jmp shell`: a shell, or a command, with a device: of a lease, of this machine, or directly over TCP."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
import click
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from jumpstarter.client.client import client_from_path
from jumpstarter.client.core import DriverError
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.common import HOOK_WARNING_PREFIX, ExporterStatus
from jumpstarter.common.exceptions import ConnectionError, ExporterOfflineError, ExporterUnreachableError
from jumpstarter.common.utils import launch_shell
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.env import JMP_GRPC_PASSPHRASE, JMP_LEASE
from jumpstarter_cli_common.config import NO_CONFIG_HINT, opt_config
from jumpstarter_cli_common.exceptions import (
    ClickExceptionRed,
    find_exception_in_group,
    handle_exceptions_with_reauthentication,
    leaf_exceptions,
)
from jumpstarter_cli_common.oidc import (
    TOKEN_EXPIRY_WARNING_SECONDS,
    Config,
    decode_jwt_issuer,
    format_duration,
    get_token_remaining_seconds,
)

from .child import Child, obeying_signals
from .common import opt_acquisition_timeout, opt_duration_partial, opt_exporter_name, opt_retry_timeout, opt_selector
from .login import relogin_client
from .prompts import usable_passphrase

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOKEN_REFRESH_SECONDS = 120
"""A token with less than this left is replaced."""
TOKEN_LOOK_INTERVAL, TOKEN_RETRY_INTERVAL = 30, 5
"""Seconds between two looks at the token, and between two attempts to replace it."""

HOOK_TIMEOUT = 300.0
"""Seconds to wait for the hook before, and the one after the lease."""
END_SESSION_TIMEOUT = 10.0
RETRY_PAUSE = 1.0
"""Seconds before another lease is tried after an exporter could not be reached."""


# --- the command -----------------------------------------------------------------------------------------------------


@click.command(
    "shell",
    short_help="Open a shell, or run a command, with a device.",
    context_settings={"allow_interspersed_args": False},
)
@opt_config(allow_missing=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--lease", "lease_name", default=None, envvar=JMP_LEASE, help="Use this lease, and don't release it.")
@opt_selector
@opt_exporter_name
@opt_duration_partial(default="30m", show_default=True)
@click.option("--exporter-logs", is_flag=True, help="Show the log of the exporter's drivers.")
@opt_acquisition_timeout()
@opt_retry_timeout()
@click.option(
    "--tls-grpc",
    "tls_grpc_address",
    metavar="HOST:PORT",
    default=None,
    help="Use the exporter at this address directly, without a lease.",
)
@click.option("--tls-grpc-insecure", is_flag=True, help="With --tls-grpc: plain text instead of TLS.")
@click.option(
    "--passphrase",
    default=None,
    envvar=JMP_GRPC_PASSPHRASE,
    help=f"With --tls-grpc: what the exporter asks for; better given as ${JMP_GRPC_PASSPHRASE}.",
)
@handle_exceptions_with_reauthentication(relogin_client)
def shell(
    config: Any,
    command: tuple[str, ...],
    lease_name: str | None,
    selector: str | None,
    exporter_name: str | None,
    duration: timedelta,
    exporter_logs: bool,
    acquisition_timeout: timedelta | None,
    retry_timeout: timedelta | None,
    tls_grpc_address: str | None,
    tls_grpc_insecure: bool,
    passphrase: str | None,
) -> None:
    """Open a shell in which `j` and Python programs reach a device, or run COMMAND there and exit with its status.

    \b
    With a client config: leases an exporter and gives it back at the end.
    With an exporter config: uses the devices of this machine.
    With --tls-grpc: uses an exporter that serves its clients directly.

    Without a selector, name or lease, your only active lease is used.
    """
    if tls_grpc_address is not None:
        passphrase = usable_passphrase(passphrase)
        sys.exit(
            anyio.run(_shell_direct, config, tls_grpc_address, tls_grpc_insecure, passphrase, exporter_logs, command)
        )
    if tls_grpc_insecure:
        raise click.UsageError("--tls-grpc-insecure can only be used with --tls-grpc.")
    if isinstance(config, tuple):
        raise _missing_config(*config)
    if isinstance(config, ClientConfigV1Alpha1):
        sys.exit(
            anyio.run(
                _shell_with_signal_handling,
                config,
                selector,
                exporter_name,
                lease_name,
                duration,
                exporter_logs,
                command,
                acquisition_timeout,
                retry_timeout,
            )
        )
    _warn_unused_lease_options()
    sys.exit(anyio.run(_shell_local, config, exporter_logs, command))


def _missing_config(kind: str, value: str) -> Exception:
    if (kind, value) == ("client", "default"):
        return click.UsageError(
            f"No client config is chosen. {NO_CONFIG_HINT} For the devices of this machine, give --exporter ALIAS or "
            "--exporter-config PATH."
        )
    option = f"--{kind.replace('_', '-')}"
    return click.UsageError(
        f"There is no config for {option} {value}; `jmp config {kind[:8].rstrip('_')} list` shows what there is."
    )


def _warn_unused_lease_options() -> None:
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return
    names = ("lease_name", "selector", "exporter_name", "duration", "acquisition_timeout", "retry_timeout")
    given = [name for name in names if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
    options = [param.opts[-1] for param in ctx.command.params if param.name in given]
    if options:
        click.echo(
            f"{click.style('Warning: ', fg='yellow')}{', '.join(options)} belong to leases and are not used with an "
            "exporter config.",
            err=True,
        )


# --- without a lease -------------------------------------------------------------------------------------------------


async def _shell_local(config: Any, exporter_logs: bool, command: tuple[str, ...]) -> int:
    """Serve the devices of an exporter config to this machine while the command runs; return its exit code."""
    child = Child(interactive=not command)
    if not exporter_logs:
        _quieten_drivers()

    async def work() -> int:
        async with config.serve_unix_async() as path:
            return await child.run(
                partial(
                    launch_shell,
                    str(path),
                    "local",
                    [],
                    True,
                    _use_profiles(config),
                    command=command or None,
                    motd=getattr(config, "motd", None),
                    on_start=child.started,
                )
            )

    return await obeying_signals(child, work)


def _quieten_drivers() -> None:
    """Keep the log of drivers, which run in this process, out of the shell; warnings are shown all the same.

    A failure that the caller is told of is not shown a second time.
    """
    if logging.getLogger().level <= logging.DEBUG:
        return
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_the_shell)


def _is_for_the_shell(record: logging.LogRecord) -> bool:
    if getattr(record, "told_to_client", False):
        return False
    return record.levelno >= logging.WARNING or not record.name.startswith("driver.")


async def _shell_direct(
    config: Any,
    address: str,
    insecure: bool,
    passphrase: str | None,
    exporter_logs: bool,
    command: tuple[str, ...],
) -> int:
    """Run the command with the exporter at a TCP address; return its exit code."""
    from jumpstarter.client.lease import DirectLease

    child = Child(interactive=not command)
    client_config = config if isinstance(config, ClientConfigV1Alpha1) else None

    async def work() -> int:
        async with BlockingPortal() as portal:
            lease = DirectLease(
                address=_checked_address(address),
                portal=portal,
                allow=[],
                unsafe=True,
                tls_config=client_config.tls if client_config is not None else None,
                insecure=insecure,
                passphrase=passphrase,
            )
            try:
                code = await _run_shell_with_lease_async(lease, exporter_logs, client_config, command, None, child)
            except (DriverError, BaseExceptionGroup) as error:
                refused = find_exception_in_group(error, DriverError)
                if refused is not None and "passphrase" in str(refused):
                    raise ClickExceptionRed(
                        f"Authentication failed: invalid or missing passphrase for the exporter at {address}",
                        reason="unauthenticated",
                        hint=f"Give the passphrase that it was started with as --passphrase or ${JMP_GRPC_PASSPHRASE}.",
                    ) from error
                raise
        return code

    return await obeying_signals(child, work)


def _checked_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise click.BadParameter(f"{address!r} is not of the form HOST:PORT", param_hint="--tls-grpc")
    return address


# --- with a lease ----------------------------------------------------------------------------------------------------


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
    _check_token(config)
    child = Child(interactive=not command)

    async def work() -> int:
        name = lease_name
        if not (selector or exporter_name or name):
            name = await _resolve_lease_from_active_async(config)
        wanted = (selector, exporter_name, name, duration)
        async with BlockingPortal() as portal:
            code = await _with_retries(
                config, portal, wanted, acquisition_timeout, retry_timeout, exporter_logs, command, child
            )
        return code

    return await obeying_signals(child, work)


def _check_token(config: Any) -> None:
    token = getattr(config, "token", None)
    if not token:
        return
    try:
        remaining = get_token_remaining_seconds(token)
    except ValueError:
        # Not a JWT: only the controller can tell whether it is good.
        return
    if remaining is not None and remaining <= 0:
        error = ConnectionError("token is expired")
        error.set_config(config)
        raise error


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
        limit = 0.0
        try:
            async with config.lease_async(*wanted, portal, acquisition_timeout, retry_timeout=retry_timeout) as lease:
                limit = lease.retry_timeout
                return await _with_one_lease(lease, config, wanted[0], exporter_logs, command, child)
        except (ExporterUnreachableError, BaseExceptionGroup) as error:
            unreachable = find_exception_in_group(error, ExporterUnreachableError)
            if unreachable is None:
                raise _first_leaf(error) from error
            deadline = deadline if deadline is not None else time.monotonic() + limit
            if time.monotonic() + RETRY_PAUSE >= deadline:
                if limit > 0:
                    raise ExporterUnreachableError(f"{unreachable.message} after {limit:g}s of retrying") from None
                raise unreachable from None
            click.echo(f"{unreachable}; trying another lease.", err=True)
        await anyio.sleep(RETRY_PAUSE)


def _first_leaf(error: BaseException) -> BaseException:
    """Return the exception that tells most: one of ours before others."""
    leaves = leaf_exceptions(error)
    return next((leaf for leaf in leaves if isinstance(leaf, LeaseError | ConnectionError | DriverError)), leaves[0])


async def _with_one_lease(
    lease: Any, config: Any, selector: str | None, exporter_logs: bool, command: tuple[str, ...], child: Child
) -> int:
    token_state: dict[str, Any] = {}
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_monitor_token_expiry, config, lease, tasks.cancel_scope, token_state)
            code = await _run_shell_with_lease_async(lease, exporter_logs, config, command, tasks.cancel_scope, child)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if find_exception_in_group(group, ExporterUnreachableError) is not None:
            raise
        return _judge_failure(group, lease)
    if lease.release and lease.name and token_state.get("expired_unrecovered"):
        _warn_about_expired_token(lease.name, selector)
    return code


def _judge_failure(group: BaseExceptionGroup[Any], lease: Any) -> int:
    """Return 0 when the failure only shows that the lease has ended; raise what it means otherwise."""
    if lease.lease_ended:
        return 0
    leaves = leaf_exceptions(group)
    if any(isinstance(leaf, click.ClickException | click.exceptions.Exit) for leaf in leaves):
        raise leaves[0]
    if getattr(lease, "lease_transferred", False) is True:
        raise ExporterOfflineError(f"Lease {lease.name} was transferred to another client") from leaves[0]
    raise ExporterOfflineError("Connection to exporter lost") from _first_leaf(group)


async def _resolve_lease_from_active_async(config: Any) -> str:
    """Return the name of the lease to use when none was asked for: the only active one, or the one that is picked.

    Raises:
        click.UsageError: there is none, or there are several and nobody can be asked.
    """
    found = await config.list_leases(only_active=True)
    leases = [lease for lease in found.leases if lease.client == config.metadata.name]
    if not leases:
        raise click.UsageError(
            "no active leases found; give --selector/-l or --name/-n to lease an exporter, or --lease to use a lease"
        )
    if len(leases) == 1:
        return str(leases[0].name)
    if not sys.stdin.isatty():
        names = ", ".join(lease.name for lease in leases)
        raise click.UsageError(f"you have several active leases, choose one with --lease: {names}")
    for number, lease in enumerate(leases, 1):
        click.echo(f"{number}: {lease.name}  {getattr(lease, 'exporter', '') or ''}", err=True)
    picked = await to_thread.run_sync(
        lambda: click.prompt("Lease to use", type=click.IntRange(1, len(leases)), err=True), abandon_on_cancel=True
    )
    return str(leases[picked - 1].name)


def _use_profiles(config: Any) -> bool:
    return getattr(getattr(config, "shell", None), "use_profiles", False) is True


def _run_shell_only(
    lease: Any, config: Any, command: tuple[str, ...], path: Any, child: Child | None = None, motd: str | None = None
) -> int:
    """Run the command with the session at `path`, in this thread, and return its exit code."""
    direct = config is None or not hasattr(lease, "namespace")
    return launch_shell(
        str(path),
        lease.exporter_name,
        lease.allow if direct else config.drivers.allow,
        lease.unsafe if direct else config.drivers.unsafe,
        _use_profiles(config),
        command=command or None,
        lease=lease,
        insecure=getattr(lease, "insecure", False) is True,
        passphrase=getattr(lease, "passphrase", None) if direct else None,
        motd=motd,
        on_start=child.started if child is not None else None,
    )


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
                client_from_path(path, lease.portal, stack, **_connection(lease)) as client,
                client.log_stream_async(show_all_logs=exporter_logs),
                client.status_monitor_async(poll_interval=0.3) as monitor,
            ):
                await _wait_until_ready(client, monitor, lease)
                launch = partial(_run_shell_only, lease, config, command, path, child)
                code = await (to_thread.run_sync(launch) if child is None else child.run(launch))
                if _owns_session(lease) and not (cancel_scope is not None and cancel_scope.cancel_called):
                    await _end_session(client, monitor, lease)
                return code


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
    reached = await _cancel_if_connection_lost(
        monitor,
        monitor.wait_for_any_of(
            [ExporterStatus.LEASE_READY, ExporterStatus.BEFORE_LEASE_HOOK_FAILED], timeout=HOOK_TIMEOUT
        ),
    )
    message = str(monitor.status_message or "")
    if reached == ExporterStatus.BEFORE_LEASE_HOOK_FAILED:
        raise ExporterOfflineError(f"The hook before the lease failed on {lease.exporter_name}: {message}")
    if monitor.connection_lost:
        raise ExporterOfflineError("Connection to exporter lost")
    if reached is None:
        raise ExporterOfflineError(f"The exporter {lease.exporter_name} was not ready within {HOOK_TIMEOUT:.0f} s")
    if message.startswith(HOOK_WARNING_PREFIX):
        _warn(message.removeprefix(HOOK_WARNING_PREFIX))


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
    await _cancel_if_connection_lost(
        monitor,
        monitor.wait_for_any_of(
            [ExporterStatus.AVAILABLE, ExporterStatus.AFTER_LEASE_HOOK_FAILED], timeout=HOOK_TIMEOUT
        ),
    )
    message = str(monitor.status_message or "")
    if message.startswith(HOOK_WARNING_PREFIX):
        _warn(message.removeprefix(HOOK_WARNING_PREFIX))
    elif monitor.current_status == ExporterStatus.AFTER_LEASE_HOOK_FAILED:
        _warn(f"the hook after the lease failed: {message}")


async def _cancel_if_connection_lost(monitor: Any, coro: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `coro`, or None as soon as the connection to the exporter is lost."""
    result: list[T] = []

    async def run() -> None:
        result.append(await coro)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not monitor.connection_lost:  # noqa: ASYNC110 - the monitor has no event for this
            await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    return result[0] if result else None


def _warn(text: str) -> None:
    click.echo(f"{click.style('Warning: ', fg='yellow')}{text}", err=True)


def _warn_about_expired_token(lease_name: str, selector: str | None) -> None:
    """Say what an expired token leaves behind: a lease that could not be released."""
    again = f"jmp shell --lease {lease_name}" + (f" --selector {selector}" if selector else "")
    _warn(
        f"your token has expired, so lease {lease_name} may not have been released. Log in with `jmp login`, then use "
        f"it with `{again}` or release it with `jmp delete lease {lease_name}`."
    )


# --- tokens that expire while the shell runs -------------------------------------------------------------------------


async def _update_lease_channel(config: Any, lease: Any) -> None:
    """Have a lease use the present token of the config."""
    if lease is not None:
        lease.refresh_channel(await config.channel())


@asynccontextmanager
async def _tokens_restored(config: Any) -> AsyncGenerator[None, None]:
    """Give the config its tokens back when the body fails."""
    before = config.token, config.refresh_token
    try:
        yield
    except BaseException:
        config.token, config.refresh_token = before
        raise


async def _try_refresh_token(config: Any, lease: Any) -> bool:
    """Replace the token by means of the refresh token; return whether that worked."""
    if not config.refresh_token:
        return False
    try:
        async with _tokens_restored(config):
            issuer = decode_jwt_issuer(config.token)
            oidc = Config(issuer=issuer or "", client_id="jumpstarter-cli", offline_access=True)
            tokens = await oidc.refresh_token_grant(config.refresh_token)
            config.token = tokens["access_token"]
            if tokens.get("refresh_token"):
                config.refresh_token = tokens["refresh_token"]
            await _update_lease_channel(config, lease)
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller has other ways to get a token
        logger.debug("the token could not be refreshed: %s", error)
        return False
    try:
        ClientConfigV1Alpha1.save(config, path=config.path)
    except Exception as error:  # noqa: BLE001 - the new token works, it is only not kept
        logger.warning("the new token could not be saved: %s", error)
    return True


async def _try_reload_token_from_disk(config: Any, lease: Any) -> bool:
    """Take over a token that a login in another terminal has put into the config file; return whether there was one."""
    if not config.path:
        return False
    try:
        async with _tokens_restored(config):
            stored = ClientConfigV1Alpha1.from_file(config.path)
            if not stored.token or stored.token == config.token:
                return False
            remaining = get_token_remaining_seconds(stored.token)
            if remaining is None or remaining <= 0:
                return False
            config.token, config.refresh_token = stored.token, stored.refresh_token
            await _update_lease_channel(config, lease)
    except Exception as error:  # noqa: BLE001 - whatever it was, there is no usable token in the file now
        logger.debug("no token could be taken from the config file: %s", error)
        return False
    return True


async def _attempt_token_recovery(config: Any, lease: Any) -> str | None:
    """Get a new token in one of the ways there are; return what to tell the user, or None."""
    if await _try_refresh_token(config, lease):
        return "Token refreshed automatically."
    if await _try_reload_token_from_disk(config, lease):
        return "Token reloaded from login."
    return None


def _warn_refresh_failed(remaining: float) -> None:
    """Say that the token could not be replaced."""
    if remaining > 0:
        text = f"Token expires in {format_duration(remaining)} and could not be refreshed; run `jmp login` elsewhere."
        color = "yellow"
    else:
        text = "Token has expired and could not be refreshed; run `jmp login` elsewhere."
        color = "red"
    click.echo(click.style(text, fg=color), err=True)


async def _monitor_token_expiry(
    config: Any, lease: Any, cancel_scope: anyio.CancelScope | None, token_state: dict[str, Any] | None = None
) -> None:
    """Replace the token before it expires, for as long as the shell runs; warn when that fails, never end the shell."""
    state = {} if token_state is None else token_state
    warned: set[str] = set()
    try:
        while not (cancel_scope is not None and cancel_scope.cancel_called is True):
            if not config.token:
                return
            remaining = get_token_remaining_seconds(config.token)
            if remaining is None:
                return
            if remaining > TOKEN_REFRESH_SECONDS:
                if remaining <= TOKEN_EXPIRY_WARNING_SECONDS and "soon" not in warned:
                    warned.add("soon")
                    text = f"Token expires in {format_duration(remaining)}; auto-refresh will be tried."
                    click.echo(click.style(text, fg="yellow"), err=True)
                await anyio.sleep(TOKEN_LOOK_INTERVAL)
                continue
            message = await _attempt_token_recovery(config, lease)
            if message is not None:
                state.pop("expired_unrecovered", None)
                warned.clear()
                click.echo(click.style(message, fg="green"), err=True)
            else:
                stage = "failed" if remaining > 0 else "expired"
                if stage not in warned:
                    warned.add(stage)
                    _warn_refresh_failed(remaining)
                if remaining <= 0:
                    state["expired_unrecovered"] = True
            await anyio.sleep(TOKEN_RETRY_INTERVAL)
    except Exception as error:  # noqa: BLE001 - a shell that works must not end because its token can't be watched
        logger.debug("the token is not watched any more: %s", error)
