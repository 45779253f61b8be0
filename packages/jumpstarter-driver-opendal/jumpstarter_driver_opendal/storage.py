"""What a storage is to its driver: paths that are read, written, listed and moved, with blocking methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

from .common import Capability, Metadata, PresignedRequest

__all__ = ["LimitedWriter", "Reader", "SizeLimitExceeded", "Storage", "Writer"]


class SizeLimitExceeded(ValueError):
    """A file grew beyond what the storage takes, or a compressed one would when unpacked."""


class Reader(Protocol):
    """A file open for reading."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, nothing at the end."""
        ...

    def seek(self, pos: int, whence: int) -> int:
        """Move, as `io.IOBase.seek`; returns the new position."""
        ...

    def tell(self) -> int:
        """The position in bytes."""
        ...

    def close(self) -> None: ...


class Writer(Protocol):
    """A file being written. Nobody sees it before it is published."""

    def write(self, data: bytes) -> object:
        """Append all of `data`."""
        ...

    def publish(self) -> None:
        """Put the finished file in its place, all at once."""
        ...

    def discard(self) -> None:
        """Remove what was written. Does nothing after `publish`."""
        ...


class LimitedWriter:
    """A writer that takes a limited number of bytes, however small the data was before it was unpacked."""

    def __init__(self, inner: Writer, limit: int, path: str) -> None:
        self._inner = inner
        self._limit = limit
        self._path = path
        self.written = 0

    def write(self, data: bytes) -> None:
        """Append all of `data`.

        Raises:
            SizeLimitExceeded: the file would become too large.
        """
        if self.written + len(data) > self._limit:
            raise SizeLimitExceeded(
                f"{self._path!r} is larger than the {self._limit} bytes that this storage takes (unpacked, if it was "
                "sent compressed); the incomplete file was removed. Raise max_size in the exporter config if the file "
                "is meant to be that large."
            )
        self._inner.write(data)
        self.written += len(data)

    def publish(self) -> None:
        self._inner.publish()

    def discard(self) -> None:
        self._inner.discard()


class Storage(ABC):
    """A tree of files. Paths are relative to its root; directories are written with a slash at the end.

    Every method may raise `OSError` (`FileNotFoundError`, `PermissionError`, ...), `OutsideRoot` for a path that
    leads out of the root, and `NotImplementedError` for what this kind of storage can't do.
    """

    @abstractmethod
    def open_reader(self, path: str) -> Reader: ...

    @abstractmethod
    def open_writer(self, path: str) -> Writer: ...

    @abstractmethod
    def stat(self, path: str) -> Metadata: ...

    @abstractmethod
    def copy(self, source: str, target: str) -> None: ...

    @abstractmethod
    def rename(self, source: str, target: str) -> None: ...

    @abstractmethod
    def remove_all(self, path: str) -> None:
        """Remove a file or a directory with all it holds. Missing is fine; the root itself stays."""

    @abstractmethod
    def create_dir(self, path: str) -> None:
        """Create a directory and those above it. The path must end with a slash."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file or an empty directory. Missing is fine."""

    @abstractmethod
    def list(self, path: str, *, recursive: bool) -> Iterator[str]:
        """Entries whose path begins with `path`, the directory itself included. Missing: nothing."""

    @abstractmethod
    def presign(self, operation: str, path: str, expire_second: int) -> PresignedRequest:
        """A request for `stat`, `read` or `write` that others may make for `expire_second` seconds."""

    @abstractmethod
    def capability(self) -> Capability: ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True
