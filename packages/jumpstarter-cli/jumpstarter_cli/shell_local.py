"""`jmp shell` with the devices of this machine: those of an exporter config, served by this process."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from . import shell
from .child import Child, obeying_signals, use_profiles


async def shell_local(config: Any, exporter_logs: bool, command: tuple[str, ...]) -> int:
    """Serve the devices of an exporter config to this machine while the command runs; return its exit code."""
    child = Child(interactive=not command)
    if not exporter_logs:
        _quieten_drivers()

    async def work() -> int:
        async with config.serve_unix_async() as path:
            return await child.run(
                partial(
                    shell.launch_shell,
                    str(path),
                    "local",
                    [],
                    True,
                    use_profiles(config),
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
