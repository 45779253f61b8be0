"""What a TFTP server reads from: a directory that nobody gets out of, or any operator of the opendal library."""

from __future__ import annotations

import errno
import inspect
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from anyio import to_thread
from jumpstarter_driver_opendal.paths import OutsideRoot, confine, is_partial

__all__ = ["Directory", "FileStat", "ReadableFile", "ReadableTree", "size_of"]


class FileStat(Protocol):
    """What is known of a file before it is read (as `opendal.types.Metadata`)."""

    @property
    def mode(self) -> Any: ...

    @property
    def content_length(self) -> int: ...


class ReadableFile(Protocol):
    """An open file (as `opendal.AsyncFile`)."""

    async def read(self, size: int) -> bytes: ...

    async def close(self) -> Any: ...


class ReadableTree(Protocol):
    """The part of `opendal.AsyncOperator` that the server uses."""

    async def stat(self, path: str) -> FileStat: ...

    async def open(self, path: str, mode: str) -> ReadableFile: ...


class _Mode:
    def __init__(self, mode: int) -> None:
        self._mode = mode

    def is_file(self) -> bool:
        return stat.S_ISREG(self._mode)

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self._mode)


class _Stat:
    def __init__(self, result: os.stat_result) -> None:
        self.mode = _Mode(result.st_mode)
        self.content_length = result.st_size


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def read(self, size: int) -> bytes:
        return await to_thread.run_sync(os.read, self._fd, size)

    async def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Directory:
    """The files under one directory.

    Names are relative to it. Symbolic links are followed as long as they stay inside. Uploads that aren't complete
    yet can't be seen.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def locate(self, path: str) -> str:
        """The real path of a file.

        Raises:
            PermissionError: the name leads out of the directory.
            FileNotFoundError: the name is that of an upload in progress.
        """
        if is_partial(path):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        try:
            return confine(self.root, path)
        except OutsideRoot as error:
            raise PermissionError(errno.EACCES, "outside of the served directory", path) from error

    async def stat(self, path: str) -> _Stat:
        """Raises: OSError, see `locate`."""
        return await to_thread.run_sync(lambda: _Stat(os.stat(self.locate(path))))

    async def open(self, path: str, mode: str = "rb") -> _File:
        """Open a regular file for reading.

        Raises:
            ValueError: a mode other than `rb`.
            OSError: see `locate`.
        """
        if mode != "rb":
            raise ValueError(f"mode {mode!r} is not supported, the directory is read-only")

        def open_regular() -> int:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer.
            fd = os.open(self.locate(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
            return fd

        return _File(await to_thread.run_sync(open_regular))


def size_of(info: FileStat) -> int | None:
    """The size in bytes, None when the storage can't tell."""
    return info.content_length if isinstance(info.content_length, int) else None


@asynccontextmanager
async def opened(tree: ReadableTree, path: str) -> AsyncIterator[ReadableFile]:
    """Open a file for reading and close it whatever happens."""
    file = await tree.open(path, "rb")
    try:
        yield file
    finally:
        closing = file.close()
        if inspect.isawaitable(closing):
            await closing
