"""The life of the process of a lab: what it says when it is ready, and what signals and service managers make of it."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
from jumpstarter.common.exceptions import JumpstarterException

from . import systemd
from .config_file import read_config
from .first_start import admin_name, has_admin, make_admin
from .server import avoid_pauses

if TYPE_CHECKING:
    from jumpstarter.config.admin import AdminConfigV1Alpha1

    from .server import LabServer

logger = logging.getLogger(__name__)


async def run_until_stopped(server: LabServer, config_path: Path | None) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP checks the config, so that it is known whether a restart would fail.

    Args:
        config_path: the config file, if there is one.

    Raises:
        Exception: what keeps the server from starting, as it is.
    """
    failure: Exception | None = None
    stopping = anyio.Event()
    whole = anyio.CancelScope()
    started = False

    async def watch(signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                _reload(config_path)
                continue
            click.echo(f"{number.name} received, stopping ...", err=True)
            stopping.set()
            if not started:
                whole.cancel()

    # Before anything starts, so that no signal is ever lost.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, signals)
            try:
                with whole:
                    async with server:
                        started = True
                        avoid_pauses()
                        click.echo(await _greeting(server))
                        systemd.notify("READY=1", f"STATUS=Serving the lab at {server.endpoint}")
                        tasks.start_soon(systemd.keep_alive)
                        await stopping.wait()
                        systemd.notify("STOPPING=1")
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _reload(config_path: Path | None) -> None:
    systemd.notify_reloading()
    try:
        if config_path is not None:
            read_config(config_path)
    except JumpstarterException as error:
        logger.error("the config has changed and can't be used, so the next start will fail: %s", error)
    else:
        logger.info("certificates are read again when they change; other changes of the config wait for a restart")
    systemd.notify("READY=1")


async def _greeting(server: LabServer) -> str:
    """Return where the lab is; at the first start, which makes an admin, also what to do next."""
    text = f"The lab is ready at {server.endpoint}, its data is in {server.place}"
    if server.web_url:
        text += f"\nLog-in and dashboard are at {server.web_url}"
    if server.place != str(server.folder) or has_admin(server):
        return text
    return f"{text}\n{_next_steps(await make_admin(server, admin_name()))}"


def _next_steps(config: AdminConfigV1Alpha1) -> str:
    return f"""\
You are its admin '{config.metadata.name}', as {config.path} says. What to type next, in another terminal:

  jmp admin create exporter my-board --label board=demo --save
  jmp admin create client {config.metadata.name} --unsafe --save
  jmp run --exporter my-board
"""
