"""A board that can be used by one at a time, as real ones, and that writes down who had it when."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from anyio import create_memory_object_stream
from anyio.abc import ObjectStream
from anyio.streams.stapled import StapledObjectStream
from jumpstarter.driver import Driver, export, exportstream

LIMIT = 90.0
"""Seconds after which a call that is held ends by itself."""


@dataclass(kw_only=True)
class Board(Driver):
    """Writes to `folder/journal`; can't be opened while another process has it open, as a serial port can't."""

    folder: str
    _lock: TextIO = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lock = (Path(self.folder) / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self.note("busy")
            raise OSError(f"the board in {self.folder} is in use by another program") from None
        self.note("opened")

    @classmethod
    def client(cls) -> str:
        return "board_client.BoardClient"

    def note(self, what: str) -> None:
        """Add a line, whole or not at all."""
        line = f"{time.monotonic_ns()} {os.getpid()} {what}\n".encode()
        journal = os.open(Path(self.folder) / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(journal, line)
        finally:
            os.close(journal)

    def close(self) -> None:
        super().close()
        if not self._lock.closed:
            self.note("closed")
            self._lock.close()

    @export
    def use(self, lease: str) -> str:
        """Take note of a use by whoever has `lease`."""
        self.note(f"use {lease}")
        return lease

    @export
    def hold(self, lease: str) -> str:
        """Be busy until the file `go` is there."""
        self.note(f"hold {lease}")
        deadline = time.monotonic() + LIMIT
        while not (Path(self.folder) / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.note(f"held {lease}")
        return lease

    @exportstream
    @asynccontextmanager
    async def echo(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Send back what comes."""
        send, receive = create_memory_object_stream[bytes](8)
        self.note("stream")
        async with StapledObjectStream(send, receive) as stream:
            yield stream
