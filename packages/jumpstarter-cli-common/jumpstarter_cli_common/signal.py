"""Ends async work when the user or the system asks for it."""

from __future__ import annotations

import signal

import anyio
import click


async def signal_handler(scope: anyio.CancelScope) -> None:
    """Wait for SIGINT or SIGTERM, say so once on stderr, and cancel `scope`."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            click.echo(f"{signal.Signals(number).name} received, stopping ...", err=True)
            scope.cancel()
            return
