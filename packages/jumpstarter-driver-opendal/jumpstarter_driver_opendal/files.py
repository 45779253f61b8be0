"""The files that clients of a storage driver have open, by descriptor."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID, uuid4

from .storage import Reader, Writer

__all__ = ["FileTable", "OpenFile"]

MAX_OPEN_FILES = 256
MAX_CLOSED_FILES = 1024
"""Closed descriptors that are remembered, so that asking whether one is closed has an answer."""


class OpenFile:
    """A file that is either read or written."""

    def __init__(self, path: str, *, reader: Reader | None = None, writer: Writer | None = None) -> None:
        self.path = path
        self._reader = reader
        self._writer = writer
        self._failed = False
        self._published = False
        self._busy = threading.Lock()

    @property
    def reader(self) -> Reader:
        """Raises: ValueError: the file is open for writing."""
        if self._reader is None:
            raise ValueError(f"{self.path!r} is open for writing; open it with mode 'rb' to read it")
        return self._reader

    @property
    def writer(self) -> Writer:
        """Raises: ValueError: the file is open for reading, or an earlier write failed."""
        if self._writer is None:
            raise ValueError(f"{self.path!r} is open for reading; open it with mode 'wb' to write it")
        if self._failed:
            raise ValueError(f"writing {self.path!r} failed before and what was written is gone; open it again")
        return self._writer

    @property
    def is_writable(self) -> bool:
        return self._writer is not None

    @property
    def is_published(self) -> bool:
        """Whether a written file has its final name."""
        return self._published

    @contextmanager
    def exclusive(self, wait: float = 0.0) -> Generator[OpenFile, None, None]:
        """Use the file alone.

        Args:
            wait: seconds to wait until another call has done with it; blocks the thread.

        Raises:
            ValueError: it is in use.
        """
        if not self._busy.acquire(timeout=wait) if wait else not self._busy.acquire(blocking=False):
            raise ValueError(f"{self.path!r} is being read or written by another call; wait for it to end")
        try:
            yield self
        finally:
            self._busy.release()

    def fail(self) -> None:
        """Drop what was written; the file will not be published."""
        self._failed = True
        if self._writer is not None:
            self._writer.discard()

    def close(self, *, publish: bool) -> None:
        """Close the file; a written one is published, unless writing it failed."""
        if self._reader is not None:
            self._reader.close()
        elif self._writer is not None:
            try:
                if publish and not self._failed:
                    self._writer.publish()
                    self._published = True
            finally:
                self._writer.discard()


class FileTable:
    """Open files by descriptor."""

    def __init__(self) -> None:
        self._open: dict[UUID, OpenFile] = {}
        self._closed: OrderedDict[UUID, None] = OrderedDict()
        self._lock = threading.Lock()

    def check_room(self) -> None:
        """Raises: ValueError: too many files are open."""
        if len(self._open) >= MAX_OPEN_FILES:
            raise ValueError(f"{MAX_OPEN_FILES} files are open already; close some of them")

    def add(self, file: OpenFile) -> UUID:
        """Keep an open file; returns its descriptor."""
        descriptor = uuid4()
        with self._lock:
            self._open[descriptor] = file
        return descriptor

    def get(self, descriptor: UUID | str) -> OpenFile:
        """Raises: ValueError: there is no such open file."""
        if (file := self.find(descriptor)) is None:
            raise ValueError(f"the file with descriptor {descriptor} was closed before")
        return file

    def find(self, descriptor: UUID | str) -> OpenFile | None:
        """The open file, or None for one that was closed.

        Raises:
            ValueError: there never was such a file.
        """
        key = UUID(str(descriptor))
        with self._lock:
            if key in self._open:
                return self._open[key]
            if key in self._closed:
                return None
        raise ValueError(f"no file with descriptor {key}: it belongs to another driver or session")

    def remove(self, descriptor: UUID | str) -> None:
        """Take an open file for closed."""
        key = UUID(str(descriptor))
        with self._lock:
            if self._open.pop(key, None) is not None:
                self._closed[key] = None
            while len(self._closed) > MAX_CLOSED_FILES:
                self._closed.popitem(last=False)

    def drain(self) -> list[OpenFile]:
        """Forget all open files and return them."""
        with self._lock:
            files = list(self._open.values())
            self._open.clear()
        return files
