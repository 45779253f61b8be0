"""`jmp run`: a supervisor, and the exporter that it runs as a child process and starts again when it crashes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.entry import report
from jumpstarter_cli_common.exceptions import ClickExceptionRed, describe, handle_exceptions, leaf_exceptions

from .config_watch import ConfigWatch, one_line
from .prompts import usable_passphrase

logger = logging.getLogger("supervisor")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""End the exporter now: the session is closed and the exporter unregisters."""
DRAIN_SIGNAL = signal.SIGHUP
"""Ends the exporter after its current lease."""
PAUSE_SIGNAL = signal.SIGUSR1
"""Has the exporter take no lease after its current one; it goes on running."""
RESUME_SIGNAL = signal.SIGUSR2
"""Has the exporter take leases again, and read its config anew."""
DUTY_SIGNALS = (PAUSE_SIGNAL, RESUME_SIGNAL)

CRASHED = 75
"""Exit code of a child that failed in a way that another run may not."""
DONE = 76
"""Exit code of a child that has done all it was asked to."""

RELOAD = 77
"""Exit code of a child that found a new config, for the next one."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds between a crash and the next run; doubled by each crash in a row.

Short enough that a board can be leased again within half a minute, whatever happened to its exporter.
"""

STOP_GRACE = 180.0
"""Seconds that a child may take to stop, its last hook included, before it is killed."""

DEFAULT_HOST = "0.0.0.0"

PERMANENT_REASONS = {
    "account-unknown",
    "configuration",
    "environment",
    "file-not-found",
    "identity-mismatch",
    "invalid-argument",
    "invalid-data",
    "missing-driver",
    "permission-denied",
    "tls",
    "unauthenticated",
}
"""Failures that another run would only repeat."""

_PASSPHRASE_OPTION = "passphrase"


@dataclass
class _Duty:
    """What is asked of the exporter, whichever child it is."""

    paused: bool = False
    reload: bool = False
    """The last child has ended for a new config."""
    adjust: Callable[[Any], Any] = lambda config: config
    """Adds to a config what the command line says."""


_duty = _Duty()


# --- the command -----------------------------------------------------------------------------------------------------


@click.command("run", short_help="Run an exporter.")
@opt_config(client=False)
@click.option("--exit-on-lease-end", is_flag=True, help="End after one lease.")
@click.option(
    "--direct-listen",
    metavar="[HOST:]PORT|auto",
    default=None,
    help="Let clients of leases come to this address without a router, if their network lets them. Without HOST, on "
    "all interfaces; 'auto' is a free port.",
)
@click.option(
    "--direct-advertise",
    metavar="HOST[:PORT]",
    multiple=True,
    help="With --direct-listen: the address as clients reach it. May be repeated.",
)
@click.option(
    "--tls-grpc-listener",
    metavar="[HOST:]PORT",
    default=None,
    help="Serve clients directly on this address, without a controller. Without HOST, on all interfaces.",
)
@click.option("--tls-grpc-insecure", is_flag=True, help="With --tls-grpc-listener: plain text instead of TLS.")
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="With --tls-grpc-listener: certificate chain, PEM.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="With --tls-grpc-listener: private key, PEM.",
)
@click.option(
    "--passphrase",
    default=None,
    envvar="JMP_GRPC_PASSPHRASE",
    help="With --tls-grpc-listener: what clients must know; better given as $JMP_GRPC_PASSPHRASE.",
)
@click.pass_context
@handle_exceptions
def run(
    ctx: click.Context,
    config: Any,
    exit_on_lease_end: bool,
    direct_listen: str | None,
    direct_advertise: tuple[str, ...],
    tls_grpc_listener: str | None,
    tls_grpc_insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    passphrase: str | None,
) -> None:
    """Offer the devices of an exporter config, until stopped.

    With a controller, as the config says, or directly on a TCP address. A crashed exporter is started again. A config
    that has changed is used from the end of the current lease on.

    SIGTERM and SIGINT stop it, SIGHUP stops it after the current lease. After SIGUSR1 it takes no further lease, after
    SIGUSR2 it does again.
    """
    if tls_grpc_listener is not None and (exit_on_lease_end or direct_listen or direct_advertise):
        raise click.UsageError(
            "--exit-on-lease-end, --direct-listen and --direct-advertise are about leases of a controller, which there "
            "are none of with --tls-grpc-listener."
        )
    _duty.adjust = _adjustment(exit_on_lease_end, direct_listen, direct_advertise)
    config = _duty.adjust(config)
    given = {
        "--tls-grpc-insecure": tls_grpc_insecure,
        "--tls-cert": tls_cert,
        "--tls-key": tls_key,
        "--passphrase": passphrase
        and ctx.get_parameter_source(_PASSPHRASE_OPTION) == click.core.ParameterSource.COMMANDLINE,
    }
    if tls_grpc_listener is None:
        if useless := [option for option, value in given.items() if value]:
            raise click.UsageError(f"{' and '.join(useless)} can only be used with --tls-grpc-listener.")
        ctx.exit(_serve_with_exc_handling(config))
    bind = _parse_listener_bind(tls_grpc_listener)
    _check_tls(tls_grpc_insecure, tls_cert, tls_key)
    passphrase = usable_passphrase(passphrase)
    _warn_of_open_door(bind, insecure=tls_grpc_insecure, passphrase=passphrase)
    ctx.exit(_serve_with_exc_handling(config, bind, tls_grpc_insecure, tls_cert, tls_key, passphrase))


def _adjustment(
    exit_on_lease_end: bool, direct_listen: str | None, direct_advertise: tuple[str, ...]
) -> Callable[[Any], Any]:
    """Return what adds these options to a config.

    Raises:
        click.BadParameter: one of them is malformed.
    """
    direct: Any = None
    if direct_listen is None and direct_advertise:
        raise click.UsageError("--direct-advertise can only be used with --direct-listen.")
    if direct_listen is not None:
        from jumpstarter.config.exporter import DirectConfigV1Alpha1
        from pydantic import ValidationError

        try:
            direct = DirectConfigV1Alpha1(listen=direct_listen, advertise=list(direct_advertise))
        except ValidationError as error:
            problem = error.errors()[0]
            message = problem["msg"].removeprefix("Value error, ")
            raise click.BadParameter(message, param_hint=f"--direct-{problem['loc'][0]}") from None

    def adjust(config: Any) -> Any:
        if exit_on_lease_end:
            config.exit_on_lease_end = True
        if direct is not None:
            config.direct = direct
        return config

    return adjust


def _parse_listener_bind(value: str) -> tuple[str, int]:
    """Return host and port of `[HOST:]PORT`.

    Raises:
        click.BadParameter: the port is no number from 1 to 65535.
    """
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise click.BadParameter(
            f"{value!r} is not of the form [HOST:]PORT with a port from 1 to 65535", param_hint="--tls-grpc-listener"
        )
    return host.removeprefix("[").removesuffix("]") or DEFAULT_HOST, int(port)


def _check_tls(insecure: bool, cert: str | None, key: str | None) -> None:
    if insecure and (cert or key):
        raise click.UsageError(
            "--tls-grpc-insecure means plain text, so --tls-cert and --tls-key can't be used with it."
        )
    if insecure:
        return
    if not (cert and key):
        raise click.UsageError(
            "--tls-grpc-listener needs either --tls-cert and --tls-key, or --tls-grpc-insecure for plain text."
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise ClickExceptionRed(
            f"--tls-cert {cert} and --tls-key {key} can't be used: {error.reason or error}",
            reason="tls",
            hint="Both must be PEM files, and the key must be that of the certificate.",
        ) from error


def _warn_of_open_door(bind: tuple[str, int], *, insecure: bool, passphrase: str | None) -> None:
    """Say who can use the devices when anybody can."""
    host, port = bind
    if not insecure or passphrase or _is_loopback(host):
        return
    click.echo(
        f"{click.style('Warning: ', fg='yellow')}everybody who can reach port {port} of {host} can use the devices, "
        "and read and change the traffic; use TLS and a passphrase outside of a trusted network.",
        err=True,
    )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the supervisor --------------------------------------------------------------------------------------------------


def _serve_with_exc_handling(
    config: Any,
    parsed_bind: tuple[str, int] | None = None,
    tls_insecure: bool = False,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    passphrase: str | None = None,
) -> int:
    """Run the exporter in a child process, again and again; return the exit code when it is over.

    Children that crash sooner than the window of the config's failure detection are counted; when there are too many
    in a row, the exporter is given up.
    """
    crashes = 0
    with _signals_held():
        while True:
            limits = config.failure_detection
            started = time.monotonic()
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _run_child(partial(_handle_child, config, parsed_bind, tls_insecure, tls_cert, tls_key, passphrase))
            if _duty.paused:
                os.kill(pid, PAUSE_SIGNAL)
            code = _handle_parent(pid)
            if code is not None:
                return code
            if _duty.reload:
                _duty.reload = False
                config = _reloaded(config)
                continue
            if time.monotonic() - started < limits.rapid_failure_window:
                crashes += 1
            else:
                crashes = 0
            if crashes >= limits.max_rapid_failures:
                click.echo(
                    f"Error: the exporter ended {crashes} times in a row within {limits.rapid_failure_window} s of "
                    "its start; giving up.",
                    err=True,
                )
                return 1
            stopped = _pause(min(FIRST_PAUSE * 2 ** max(crashes - 1, 0), LONGEST_PAUSE))
            if stopped is not None:
                return 0 if stopped == DRAIN_SIGNAL else 128 + stopped


def _reloaded(config: Any) -> Any:
    """Return what the file of a config says now, or the config as it is when that can't be read."""
    try:
        return _duty.adjust(type(config).load_path(config.path))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, there is a config that works
        click.echo(f"The exporter goes on with the config that it has: {one_line(error)}", err=True)
        return config


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keep the signals of interest pending, so that the supervisor takes them when and where it waits for them."""
    held = {*STOP_SIGNALS, DRAIN_SIGNAL, *DUTY_SIGNALS, signal.SIGCHLD, signal.SIGALRM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    # A signal whose default is to be ignored may be dropped instead of kept pending, unless it has a handler.
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pause(seconds: float) -> int | None:
    """Wait, or return the signal that ended the wait."""
    click.echo(f"Starting the exporter again in {seconds:g} s.", err=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        while True:
            number = signal.sigwait({*STOP_SIGNALS, DRAIN_SIGNAL, *DUTY_SIGNALS, signal.SIGALRM, signal.SIGCHLD})
            if number == signal.SIGALRM:
                return None
            if number in DUTY_SIGNALS:
                _duty.paused = number == PAUSE_SIGNAL
                continue
            if number == signal.SIGCHLD:
                _reap_orphans(0)
                continue
            return number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _handle_parent(pid: int) -> int | None:
    """Pass signals on to the child until it has ended.

    Returns:
        The exit code of the program, or None when the child shall be started again.
    """
    stopped: int | None = None
    try:
        while not _has_ended(pid):
            number = signal.sigwait({*STOP_SIGNALS, DRAIN_SIGNAL, *DUTY_SIGNALS, signal.SIGCHLD, signal.SIGALRM})
            if number == signal.SIGCHLD:
                _reap_orphans(pid)
            elif number in DUTY_SIGNALS:
                _duty.paused = number == PAUSE_SIGNAL
                os.kill(pid, number)
            elif number == signal.SIGALRM:
                click.echo(f"The exporter did not stop within {STOP_GRACE:.0f} s; killing it.", err=True)
                os.kill(pid, signal.SIGKILL)
            else:
                if number != DRAIN_SIGNAL and stopped in (None, DRAIN_SIGNAL):
                    signal.setitimer(signal.ITIMER_REAL, STOP_GRACE)
                stopped = number
                os.kill(pid, number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _end_group(pid)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    _duty.reload = code == RELOAD
    return _judge(code, stopped)


def _judge(code: int, stopped: int | None) -> int | None:
    if stopped is not None and stopped != DRAIN_SIGNAL:
        return 128 + stopped
    if code == DONE or (stopped == DRAIN_SIGNAL and code in (0, RELOAD)):
        return 0
    if stopped == DRAIN_SIGNAL:
        return 1 if code == CRASHED else code if code > 0 else 128 - code
    if code < 0:
        click.echo(f"The exporter was ended by {_signal_name(-code)}.", err=True)
        return None
    return None if code in (0, CRASHED, RELOAD) else code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _has_ended(pid: int) -> bool:
    """Whether the child has ended; it stays a zombie, which keeps its process group from being anybody else's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(pid: int) -> None:
    """Kill what the child left behind: helper processes that would hold the devices against its successor."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # Nobody but the zombie itself is left; some systems refuse that instead of finding nobody.
        return


def _reap_orphans(pid: int) -> None:
    """Collect the orphans that an init process (PID 1, as in a container) inherits."""
    if os.getpid() != 1:
        return
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid != pid:
        os.waitpid(ended.si_pid, 0)


# --- the child -------------------------------------------------------------------------------------------------------


def _run_child(serve: Any) -> None:
    """Run the child to its end; never returns, and never runs what the parent has on its stack."""
    code = CRASHED
    try:
        parent = os.getppid()
        os.setsid()
        _die_with(parent)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Those of DUTY_SIGNALS would end it before it has handlers for them; they are kept until it has.
        signal.pthread_sigmask(signal.SIG_SETMASK, DUTY_SIGNALS)
        code = serve()
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _die_with(parent: int) -> None:
    """Have this process told to stop when the supervisor dies, even by SIGKILL (Linux only)."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _handle_child(
    config: Any,
    parsed_bind: tuple[str, int] | None,
    tls_insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    passphrase: str | None,
) -> int:
    """Serve the exporter; return the exit code of the child."""
    try:
        return anyio.run(_serve, config, parsed_bind, tls_insecure, tls_cert, tls_key, passphrase)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 - whatever it is, the supervisor decides what follows
        report(error)
        return 1 if _is_permanent(error) else CRASHED


def _is_permanent(error: BaseException) -> bool:
    failure = describe(error)
    if failure is not None and failure.reason in PERMANENT_REASONS:
        return True
    leaves = leaf_exceptions(error, fix_tracebacks=False)
    return any(isinstance(leaf, OSError) and leaf.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL) for leaf in leaves)


async def _serve(
    config: Any,
    parsed_bind: tuple[str, int] | None,
    tls_insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    passphrase: str | None,
) -> int:
    """Serve until a signal or the exporter itself ends it; return the exit code of the child."""
    stopped: list[int] = []
    reloading: list[Any] = []
    async with config.create_exporter(standalone=parsed_bind is not None) as exporter, anyio.create_task_group() as tg:
        watch = None
        if parsed_bind is None and isinstance(config.path, Path):
            watch = ConfigWatch(config.path, config, partial(_load, config))
            tg.start_soon(watch.run, partial(_take_config, exporter, reloading))
        ask = None if parsed_bind is not None else watch.ask if watch is not None else lambda: None
        tg.start_soon(_obey_signals, exporter, tg.cancel_scope, stopped, ask)
        if parsed_bind is None:
            await exporter.serve()
        else:
            host, port = parsed_bind
            await exporter.serve_standalone_tcp(
                host,
                port,
                tls_credentials=None if tls_insecure else _server_credentials(tls_cert, tls_key),
                interceptors=_interceptors(passphrase),
            )
        tg.cancel_scope.cancel()
    if stopped:
        return 0 if stopped[-1] == DRAIN_SIGNAL else 128 + stopped[-1]
    code = exporter.exit_code
    if isinstance(code, int) and code:
        return code
    if reloading and reloading[-1] is None:
        return RELOAD
    return DONE if config.exit_on_lease_end is True else 0


def _load(config: Any) -> Any:
    return _duty.adjust(type(config).load_path(config.path))


async def _take_config(exporter: Any, reloading: list[Any], config: Any) -> None:
    """Have the exporter end for a new config when it is free, unless its drivers can't be made.

    Args:
        exporter: serves with the present config.
        reloading: the newest of the configs that wait for that; None at its end tells that the exporter ends for one.
        config: the new one.
    """

    async def apply() -> None:
        if reloading[-1] is not config:
            return
        try:
            await exporter.try_drivers(config.instantiate)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the present config works
            logger.error("the exporter goes on with the config that it has: %s", one_line(error))
            return
        logger.info("%s has changed; setting up the exporter anew", config.path)
        reloading.append(None)
        exporter.stop()

    reloading.append(config)
    logger.info("%s has changed; it is used as soon as there is no lease", config.path)
    exporter.when_free(apply)


async def _obey_signals(
    exporter: Any, scope: anyio.CancelScope, stopped: list[int], read_config: Callable[[], None] | None = None
) -> None:
    with anyio.open_signal_receiver(*STOP_SIGNALS, DRAIN_SIGNAL, *DUTY_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DUTY_SIGNALS)
        async for number in signals:
            if number in DUTY_SIGNALS:
                _change_duty(exporter, read_config, number)
                continue
            # The second request to stop doesn't wait for hooks any more.
            again = any(earlier != DRAIN_SIGNAL for earlier in stopped)
            stopped.append(number)
            if number == DRAIN_SIGNAL:
                logger.info("%s: stopping after the current lease", _signal_name(number))
                exporter.stop(wait_for_lease_exit=True, should_unregister=True)
            elif again:
                logger.info("%s: stopping at once", _signal_name(number))
                scope.cancel()
            else:
                logger.info("%s: stopping", _signal_name(number))
                exporter.stop(should_unregister=True)


def _change_duty(exporter: Any, read_config: Callable[[], None] | None, number: int) -> None:
    if read_config is None:
        logger.warning("%s: without a controller there are no leases to take or not", _signal_name(number))
    elif number == PAUSE_SIGNAL:
        exporter.drain("drained by its operator")
    else:
        exporter.resume()
        read_config()


def _server_credentials(tls_cert: str | None, tls_key: str | None) -> Any:
    import grpc

    if tls_cert is None or tls_key is None:
        raise ValueError("certificate and key are needed for TLS")
    return grpc.ssl_server_credentials([(Path(tls_key).read_bytes(), Path(tls_cert).read_bytes())])


def _interceptors(passphrase: str | None) -> list[Any] | None:
    if not passphrase:
        return None
    from jumpstarter.exporter.auth import PassphraseInterceptor

    return [PassphraseInterceptor(passphrase)]
