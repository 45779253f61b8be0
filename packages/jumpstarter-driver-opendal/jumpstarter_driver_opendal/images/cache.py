"""A cache on disk for images and bundles: bounded in bytes, shared by processes, never half an entry.

An entry is a directory of files under a key, usually a hash of what it was made from. It is built beside the others
and renamed when it is complete. Entries that nobody uses are removed, the one that was used longest ago first, when
room is needed. `flock` keeps processes apart: every reader holds a shared lock on `entry.json` of its entry.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.common.owned_directory import OwnedDirectory

from ..common import parse_size

__all__ = ["Cache", "CacheError", "Entry", "NewEntry", "Partial"]

STEP: Final = 64 << 20
"""Bytes of room that are made at a time."""

MAX_PARALLEL: Final = 16
"""Transfers of one thing at a time."""

MAX_NOTES: Final = 1000
"""Notes that are kept; older ones go first."""

_FACTS: Final = "entry.json"
_KEY: Final = re.compile(r"[0-9a-z][0-9a-z.-]{7,199}")


class CacheError(JumpstarterException, RuntimeError):
    """The cache has no room, or can't be used."""


class Entry:
    """A complete entry, which stays as long as this object is open.

    Attributes:
        key: the name under which it is found.
        path: its directory. The files in it must not be changed.
        facts: what whoever built it wrote down about it.
    """

    def __init__(self, key: str, path: Path, facts: dict[str, Any], lock: int) -> None:
        self.key, self.path, self.facts = key, path, facts
        self._lock = lock

    def close(self) -> None:
        """Allow it to be removed when room is needed. May be called again."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Cache:
    """The cache. Blocking, for worker threads.

    Args:
        directory: where it is; made if missing, for this user alone.
        limit: bytes that all entries may have together, as a number or as text such as `20GiB`.

    Raises:
        CacheError: the directory can't be made or written.
    """

    def __init__(self, directory: str | os.PathLike[str], limit: int | str) -> None:
        self.directory = Path(directory).expanduser()
        self.limit = parse_size(limit, "cache size")
        self._thread_lock = threading.Lock()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("entries", "notes", "partial"):
                (self.directory / name).mkdir(mode=0o700, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise CacheError(
                f"can't use the cache directory {self.directory}: {error.strerror or error}. "
                "Make it writable for the exporter's user, or set another 'cache_dir'"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes from adding, opening and removing entries."""
        with self._thread_lock:
            descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    # -- entries ---------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """Open an entry; it counts as used now. None if there is none."""
        path = self._place(key)
        with self._locked():
            return _open(key, path)

    def build(self) -> NewEntry:
        """Begin a new entry.

        Raises:
            CacheError: the directory can't be written.
        """
        try:
            return NewEntry(self, OwnedDirectory("build-", self.directory))
        except OSError as error:
            raise CacheError(
                f"can't write to the cache directory {self.directory}: {error.strerror or error}"
            ) from None

    def remove(self, key: str) -> None:
        """Remove an entry unless somebody uses it. Missing is fine."""
        path = self._place(key)
        with self._locked():
            self._remove(path)

    def facts(self) -> list[dict[str, Any]]:
        """Return what is written down about each entry."""
        found = []
        for path in self._entries():
            with suppress(OSError, ValueError):
                found.append(json.loads((path / _FACTS).read_text()) | {"key": path.name})
        return found

    def usage(self) -> int:
        """Return the bytes of all files in the cache."""
        total = 0
        for folder, _, names in os.walk(self.directory):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def make_room(self, size: int) -> None:
        """Remove what was used longest ago until `size` more bytes fit.

        Raises:
            CacheError: they don't, because all that is left is in use.
        """
        with self._locked():
            excess = self.usage() + size - self.limit
            if excess <= 0:
                return
            oldest = sorted([*self._entries(), *(self.directory / "partial").iterdir()], key=_used)
            for path in oldest:
                freed = _size(path)
                if self._remove(path):
                    excess -= freed
                    if excess <= 0:
                        return
        raise CacheError(
            f"the cache in {self.directory} is full: its limit is {_shown(self.limit)}, and what is in it is in use. "
            "Raise 'cache_size' above the size of the image"
        )

    def _commit(self, key: str, built: Path) -> Entry:
        path = self._place(key)
        with self._locked():
            entry = _open(key, path)
            if entry is None:
                if path.exists():  # damaged: without readable facts
                    shutil.rmtree(path, ignore_errors=True)
                os.rename(built, path)
                entry = _open(key, path)
        if entry is None:
            raise CacheError(f"the cache directory {self.directory} lost an entry that was just written")
        return entry

    def _place(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} can't be a key of the cache")
        return self.directory / "entries" / key

    def _entries(self) -> list[Path]:
        return list((self.directory / "entries").iterdir())

    def _remove(self, path: Path) -> bool:
        """Remove an entry or a partial file unless somebody uses it; tell whether it is gone."""
        locked = path / _FACTS if path.is_dir() else path
        try:
            lock = os.open(locked, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            shutil.rmtree(path, ignore_errors=True)
            return not path.exists()
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            return not path.exists()
        except OSError:
            return False
        finally:
            os.close(lock)

    # -- notes -----------------------------------------------------------------------------------

    def note(self, name: str) -> dict[str, Any]:
        """Return what was noted under a name, such as what a URL had; empty if nothing was."""
        try:
            found = json.loads(self._note(name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("name") == name else {}

    def write_note(self, name: str, note: dict[str, Any]) -> None:
        """Note something under a name."""
        path = self._note(name)
        new = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        new.write_text(json.dumps(note | {"name": name}))
        os.replace(new, path)
        with self._locked():
            notes = sorted((self.directory / "notes").iterdir(), key=_used)
            for old in notes[:-MAX_NOTES]:
                old.unlink(missing_ok=True)

    def _note(self, name: str) -> Path:
        return self.directory / "notes" / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    # -- transfers that broke --------------------------------------------------------------------

    def partial(self, name: str) -> Partial:
        """Open what was kept of a transfer, or begin with nothing; also when somebody else transfers the same.

        Args:
            name: says what is transferred, and its version.

        Raises:
            CacheError: the directory can't be written.
        """
        with self._locked():
            for number in range(MAX_PARALLEL):
                digest = hashlib.sha256(f"{name}#{number}".encode()).hexdigest()
                path = self.directory / "partial" / digest
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                except OSError as error:
                    raise CacheError(f"can't write to {path.parent}: {error.strerror or error}") from None
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                else:
                    return Partial(path, descriptor)
        raise CacheError(f"the same image is transferred {MAX_PARALLEL} times at once; try again later")


class NewEntry:
    """An entry that is being built. As a context manager it is dropped at the end unless it was committed."""

    def __init__(self, cache: Cache, directory: OwnedDirectory) -> None:
        self._cache = cache
        self._directory = directory
        self._room = 0
        self.path = directory.path

    def reserve(self, size: int) -> None:
        """Make sure that `size` more bytes fit before they are written.

        Raises:
            CacheError: they don't.
        """
        if self._room < size:
            # What is reserved and not written yet is not among the files.
            self._cache.make_room(self._room + max(size, min(STEP, self._cache.limit // 16)))
            self._room += max(size, min(STEP, self._cache.limit // 16))
        self._room -= size

    def commit(self, key: str, facts: dict[str, Any]) -> Entry:
        """Complete the entry, and return it; one that has the key already wins.

        Raises:
            OSError: it can't be written.
        """
        (self.path / _FACTS).write_text(json.dumps(facts))
        with suppress(FileNotFoundError):
            os.unlink(self.path / ".owner.lock")
        return self._cache._commit(key, self.path)

    def close(self) -> None:
        """Remove what was not committed. May be called again."""
        self._directory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Partial:
    """The beginning of a file whose transfer may break, and go on later. Written at its end; locked while open."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._fd = descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)

    def chunks(self) -> Iterator[bytes]:
        """Yield what there is."""
        position = 0
        while position < self.size and (chunk := os.pread(self._fd, 1 << 20, position)):
            position += len(chunk)
            yield chunk

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            CacheError: the disk is full.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self.size += written
                view = view[written:]
        except OSError as error:
            raise no_space(error, self._path.parent) from None

    def clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self._fd, 0)
        self.size = os.lseek(self._fd, 0, os.SEEK_SET)

    def remove(self) -> None:
        """Remove the file, whose content is of no more use."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Keep what there is. May be called again."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            if not self.size:
                self._path.unlink(missing_ok=True)
            os.close(descriptor)


def no_space(error: OSError, directory: Path) -> Exception:
    """Return an error that says what to do when a disk is full; others as they are."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return CacheError(
        f"no space left on the exporter's disk under {directory}. Free some, or move 'cache_dir' to another disk"
    )


def _open(key: str, path: Path) -> Entry | None:
    try:
        lock = os.open(path / _FACTS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with os.fdopen(os.dup(lock)) as file:
            facts = json.load(file)
        os.utime(path / _FACTS)
    except (OSError, ValueError):
        os.close(lock)
        return None
    return Entry(key, path, facts, lock)


def _used(path: Path) -> float:
    """When an entry or file was used last."""
    with suppress(OSError):
        return os.stat(path / _FACTS if path.is_dir() else path).st_mtime
    return 0.0


def _size(path: Path) -> int:
    if not path.is_dir():
        with suppress(OSError):
            return path.stat().st_size
        return 0
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _shown(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} bytes"
