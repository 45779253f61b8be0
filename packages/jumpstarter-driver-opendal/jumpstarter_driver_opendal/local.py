"""Files of the exporter's own file system: confined to a root, published whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .common import Capability, EntryMode, Metadata, PresignedRequest
from .paths import PARTIAL_SUFFIX, OutsideRoot, confine, is_partial, normalize
from .storage import Storage

__all__ = ["LocalReader", "LocalStorage", "PartialFile"]

LOCK_TIME = 10.0
"""Seconds after its last change in which a partial file without a lock isn't taken for abandoned."""

LARGE = 16 << 20
"""Bytes from which on freeing a file takes noticeable time, tenths of a second for a disk image."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


class LocalReader:
    """A local file open for reading."""

    def __init__(self, path: str) -> None:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(self._fd)
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)
            raise OSError(errno.EINVAL, "not a regular file", path)

    @property
    def size(self) -> int:
        """Bytes from the start to the end; also right for block devices."""
        here = os.lseek(self._fd, 0, os.SEEK_CUR)
        end = os.lseek(self._fd, 0, os.SEEK_END)
        os.lseek(self._fd, here, os.SEEK_SET)
        return end

    def read(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def seek(self, pos: int, whence: int) -> int:
        return os.lseek(self._fd, pos, whence)

    def tell(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class PartialFile:
    """A file that is written beside its final place under a temporary name, and renamed when it is complete.

    The temporary file is locked while its writer lives. What a killed writer left behind in the directory is removed
    when the next file is written there.

    Args:
        path: the final place; its directory must exist.
        shown: how the path is called in messages.
    """

    def __init__(self, path: str, shown: str | None = None) -> None:
        self._path = path
        self._shown = shown or path
        self.written = 0
        directory, name = os.path.split(path)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "can't write a file, there is a directory of that name", self._shown)
        remove_abandoned(directory)
        # Names have at most 255 bytes; the temporary one must fit too, whatever the final one's length.
        start = os.fsencode(name)[:180].decode("utf-8", "ignore")
        self._partial = os.path.join(directory, f".{start}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
        self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # Some network file systems have no locks; nothing is cleaned up there then.
        try:
            if os.path.exists(path):
                os.fchmod(self._fd, stat.S_IMODE(os.stat(path).st_mode))
        except OSError:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Append all of `data`.

        Raises:
            OSError: the disk is full, or failed; the message says which file it was and how far it got.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self.written += written
                view = view[written:]
        except OSError as error:
            if error.errno in _FULL:
                raise OSError(
                    error.errno,
                    f"no space left for {self._shown!r} after {self.written} bytes; the incomplete file is removed. "
                    f"Free space on the file system of {os.path.dirname(self._path)}",
                ) from error
            raise

    def publish(self) -> None:
        """Put the file in its place. Readers of an older file of that name keep what they have open."""
        if self._fd < 0:
            raise ValueError(f"{self._shown!r} was already published or discarded")
        replaced = _hold(self._path)
        try:
            os.rename(self._partial, self._path)
            self._close()
        finally:
            if replaced is not None:
                # The last reference to a large file takes its blocks along, which nobody has to wait for.
                threading.Thread(target=os.close, args=(replaced,), name="jumpstarter-free").start()

    def discard(self) -> None:
        """Remove what was written. Does nothing after `publish`."""
        if self._fd < 0:
            return
        try:
            os.unlink(self._partial)
        except FileNotFoundError:
            pass
        finally:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def _hold(path: str) -> int | None:
    """A descriptor that keeps a large file in existence, where the system has such; None for others."""
    try:
        if not hasattr(os, "O_PATH") or os.stat(path, follow_symlinks=False).st_size < LARGE:
            return None
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None


def remove_abandoned(directory: str) -> None:
    """Remove the partial files in a directory whose writers are dead: those that nobody holds a lock on."""
    with os.scandir(directory) as entries:
        partial = [entry.path for entry in entries if entry.name.startswith(".") and is_partial(entry.name)]
    for path in partial:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # A writer that has only just made its file may not have locked it yet.
            if time.time() - os.fstat(fd).st_mtime > LOCK_TIME:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
        except OSError:
            pass
        finally:
            os.close(fd)


class LocalStorage(Storage):
    """The files under `root`, which is created if it is missing.

    Symbolic links are followed as long as they stay inside; paths that lead out are refused. Uploads in progress are
    neither listed nor readable.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def locate(self, path: str, *, follow: bool = True) -> str:
        """The real path.

        Args:
            path: relative to the root.
            follow: whether a symbolic link at the end stands for what it points to, or for itself.
        """
        if is_partial(path):
            raise FileNotFoundError(errno.ENOENT, "no such file, the name is reserved for uploads in progress", path)
        if follow:
            return confine(self.root, path)
        parent, _, name = normalize(path).rstrip("/").rpartition("/")
        return os.path.join(confine(self.root, parent), name) if name else confine(self.root, "")

    def open_reader(self, path: str) -> LocalReader:
        with _shown(path):
            return LocalReader(self.locate(path))

    def open_writer(self, path: str) -> PartialFile:
        if not (normal := normalize(path)) or normal.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, "can't write to a directory, name a file", path)
        with _shown(path):
            located = self.locate(path)
            os.makedirs(os.path.dirname(located), exist_ok=True)
            return PartialFile(located, normal)

    def stat(self, path: str) -> Metadata:
        with _shown(path):
            result = os.stat(self.locate(path))
        is_dir = stat.S_ISDIR(result.st_mode)
        if not is_dir and normalize(path).endswith("/"):
            raise FileNotFoundError(errno.ENOENT, "no such directory, but there is a file of that name", path)
        return Metadata(
            content_length=0 if is_dir else result.st_size,
            last_modified=datetime.fromtimestamp(result.st_mtime, UTC),
            mode=EntryMode(is_file=stat.S_ISREG(result.st_mode), is_dir=is_dir),
        )

    def copy(self, source: str, target: str) -> None:
        self._refuse_same(source, target)
        reader = self.open_reader(source)
        try:
            writer = self.open_writer(target)
            try:
                while data := reader.read(1 << 20):
                    writer.write(data)
                writer.publish()
            finally:
                writer.discard()
        finally:
            reader.close()

    def rename(self, source: str, target: str) -> None:
        self._refuse_same(source, target)
        with _shown(source):
            old = self.locate(source, follow=False)
            new = self.locate(target, follow=False)
            if not os.path.lexists(old):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
            os.makedirs(os.path.dirname(new), exist_ok=True)
            os.rename(old, new)

    def remove_all(self, path: str) -> None:
        with _shown(path):
            located = self.locate(path, follow=False)
            if located == os.path.realpath(self.root):
                for name in os.listdir(located):
                    _remove(os.path.join(located, name))
            else:
                _remove(located)

    def create_dir(self, path: str) -> None:
        if not os.fspath(path).endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, "the path of a directory must end with a slash", path)
        with _shown(path):
            os.makedirs(self.locate(path), exist_ok=True)

    def delete(self, path: str) -> None:
        with _shown(path):
            located = self.locate(path, follow=False)
            try:
                if os.path.isdir(located) and not os.path.islink(located):
                    os.rmdir(located)
                else:
                    os.unlink(located)
            except FileNotFoundError:
                pass

    def list(self, path: str, *, recursive: bool) -> Iterator[str]:
        normal = normalize(path)
        directory, _, prefix = normal.rpartition("/")
        if normal.endswith("/") or not normal:
            top = self.locate(directory)
            if os.path.isdir(top):
                yield f"{directory}/"
        else:
            top = self.locate(directory)
        if os.path.isdir(top):
            yield from self._entries(top, f"{directory}/" if directory else "", prefix, recursive)

    def _entries(self, directory: str, shown: str, prefix: str, recursive: bool) -> Iterator[str]:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if not entry.name.startswith(prefix) or is_partial(entry.name):
                continue
            if entry.is_symlink() and not self._inside(entry.path):
                continue
            if not entry.is_dir():
                yield shown + entry.name
                continue
            yield f"{shown}{entry.name}/"
            if recursive and not entry.is_symlink():
                yield from self._entries(entry.path, f"{shown}{entry.name}/", "", recursive)

    def _inside(self, path: str) -> bool:
        try:
            confine(self.root, os.path.relpath(path, os.path.realpath(self.root)))
        except OutsideRoot:
            return False
        return True

    def presign(self, operation: str, path: str, expire_second: int) -> PresignedRequest:
        raise NotImplementedError("presigned requests need a storage with an HTTP interface, 'fs' has none")

    def capability(self) -> Capability:
        return Capability(
            stat=True,
            read=True,
            write=True,
            write_can_empty=True,
            write_can_multi=True,
            create_dir=True,
            delete=True,
            copy=True,
            rename=True,
            list=True,
            list_with_recursive=True,
            shared=True,
            blocking=True,
        )

    def _refuse_same(self, source: str, target: str) -> None:
        if normalize(source) == normalize(target):
            raise ValueError(f"source and target are the same path: {source!r}")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


@contextmanager
def _shown(path: str) -> Iterator[None]:
    """Let errors name the path as the client knows it, not as it is on the exporter."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == path:
            raise
        raise type(error)(error.errno, error.strerror, path) from error
