"""`jmp shell`: the command, its options, and the choice between a lease, this machine, and an exporter at an address.

What it then does is in a module per way to a device, of which only the one that is needed is loaded: `shell_lease`,
`shell_local` and `shell_direct`; the first and the last share `shell_session`. Tests and programs find all of it here.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from importlib import import_module
from typing import Any

import anyio
import click
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.env import JMP_GRPC_PASSPHRASE, JMP_LEASE
from jumpstarter_cli_common.config import NO_CONFIG_HINT, opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions_with_reauthentication

from .common import opt_acquisition_timeout, opt_duration_partial, opt_exporter_name, opt_retry_timeout, opt_selector
from .login import relogin_client
from .prompts import usable_passphrase

_PLACES = {
    "Config": "jumpstarter_cli_common.oidc",
    "client_from_path": "jumpstarter.client.client",
    "decode_jwt_issuer": "jumpstarter_cli_common.oidc",
    "get_token_remaining_seconds": "jumpstarter_cli_common.oidc",
    "launch_shell": "jumpstarter.common.utils",
    "_attempt_token_recovery": "jumpstarter_cli.shell_token",
    "_cancel_if_connection_lost": "jumpstarter_cli.shell_session",
    "_monitor_token_expiry": "jumpstarter_cli.shell_token",
    "_resolve_lease_from_active_async": "jumpstarter_cli.shell_lease",
    "_run_shell_only": "jumpstarter_cli.shell_session",
    "_run_shell_with_lease_async": "jumpstarter_cli.shell_session",
    "_shell_with_signal_handling": "jumpstarter_cli.shell_lease",
    "_try_refresh_token": "jumpstarter_cli.shell_token",
    "_try_reload_token_from_disk": "jumpstarter_cli.shell_token",
    "_update_lease_channel": "jumpstarter_cli.shell_token",
    "_warn_about_expired_token": "jumpstarter_cli.shell_token",
    "_warn_refresh_failed": "jumpstarter_cli.shell_token",
}
"""Names that are found here, where tests replace them, and live elsewhere."""

_here = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


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
        from .shell_direct import shell_direct

        passphrase = usable_passphrase(passphrase)
        sys.exit(
            anyio.run(shell_direct, config, tls_grpc_address, tls_grpc_insecure, passphrase, exporter_logs, command)
        )
    if tls_grpc_insecure:
        raise click.UsageError("--tls-grpc-insecure can only be used with --tls-grpc.")
    if isinstance(config, tuple):
        raise _missing_config(*config)
    if isinstance(config, ClientConfigV1Alpha1):
        sys.exit(
            anyio.run(
                _here._shell_with_signal_handling,
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
    from .shell_local import shell_local

    _warn_unused_lease_options()
    sys.exit(anyio.run(shell_local, config, exporter_logs, command))


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
        warn(f"{', '.join(options)} belong to leases and are not used with an exporter config.")


def warn(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"{click.style('Warning: ', fg='yellow')}{text}", err=True)
