"""Follows the file of an exporter config and hands over what it says whenever that is new, and valid."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from jumpstarter_cli_common.exceptions import describe

__all__ = ["ConfigWatch", "one_line"]

logger = logging.getLogger("supervisor")

INTERVAL = 2.0
"""Seconds between two looks at the file; it is read when it stayed the same from one to the next."""

Signature = tuple[int, int, int]


class ConfigWatch:
    """The file that an exporter's config was read from.

    Args:
        path: the file.
        config: what it said so far.
        load: reads it.
    """

    def __init__(self, path: Path, config: Any, load: Callable[[], Any], interval: float = INTERVAL) -> None:
        self._path = path
        self._config = config
        self._read = load
        self._interval = interval
        self._seen = _signature(self._path)
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Have the file read now."""
        self._asked.set()

    async def run(self, changed: Callable[[Any], Awaitable[None]]) -> None:
        """Call `changed` with each new config until cancelled; what can't be read is told in one line."""
        while True:
            asked = await self._wait()
            config = await to_thread.run_sync(self._load)
            if config is None:
                continue
            if _content(config) == _content(self._config):
                if asked:
                    logger.info("%s says nothing new", self._path)
                continue
            await changed(config)

    async def _wait(self) -> bool:
        """Wait until the file has changed, and stays as it is, or until somebody asks; return whether it is that."""
        candidate: Signature | None = None
        while True:
            with anyio.move_on_after(self._interval):
                await self._asked.wait()
                self._asked = anyio.Event()
                self._seen = await to_thread.run_sync(_signature, self._path)
                return True
            now = await to_thread.run_sync(_signature, self._path)
            if now is not None and now != self._seen:
                # Editors write in several steps.
                if now == candidate:
                    self._seen = now
                    return False
                candidate = now

    def _load(self) -> Any:
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 (whatever is wrong with the file, the exporter goes on without it)
            logger.error("the exporter goes on with the config that it has: %s", one_line(error))
            return None


def one_line(error: BaseException) -> str:
    """Return what an error says to a user, in one line."""
    failure = describe(error)
    text = failure.message if failure is not None else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _content(config: Any) -> Any:
    return config.model_dump(mode="json")


def _signature(path: Path) -> Signature | None:
    """Return what changes when a file is written or replaced; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
