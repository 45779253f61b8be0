"""`jmp shell` with an exporter that serves its clients directly, over TCP and without a lease."""

from __future__ import annotations

from typing import Any

import click
from anyio.from_thread import BlockingPortal
from jumpstarter.client.core import DriverError
from jumpstarter.client.lease import DirectLease
from jumpstarter.config.env import JMP_GRPC_PASSPHRASE
from jumpstarter_cli_common.exceptions import ClickExceptionRed, find_exception_in_group

from . import shell
from .child import Child, obeying_signals


async def shell_direct(
    config: Any,
    address: str,
    insecure: bool,
    passphrase: str | None,
    exporter_logs: bool,
    command: tuple[str, ...],
) -> int:
    """Run the command with the exporter at a TCP address; return its exit code."""
    child = Child(interactive=not command)
    client_config = config if isinstance(config, shell.ClientConfigV1Alpha1) else None

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
                code = await shell._run_shell_with_lease_async(
                    lease, exporter_logs, client_config, command, None, child
                )
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
