"""The files of an SQLite store: who may read them, who holds them, and what an error of SQLite means."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from .base import StoreError, Unavailable

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0
"""For how long to wait for a lock that another program (an administrator's tool) has."""

_BASE_CODE = 0xFF
"""An extended result code of SQLite has the plain one in its low byte."""

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full: free space there",
    sqlite3.SQLITE_READONLY: "it can't be written: make the file system and the file writable",
    sqlite3.SQLITE_IOERR: "the disk gives errors or is full: look into the system's log, and free space",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: see that it exists, its folder is writable and the disk not full",
    sqlite3.SQLITE_BUSY: "another program has locked it: end that program",
    sqlite3.SQLITE_LOCKED: "another program has locked it: end that program",
    sqlite3.SQLITE_PERM: "access is denied: see to the owner and mode of the file and its folder",
    sqlite3.SQLITE_AUTH: "access is denied: see to the owner and mode of the file and its folder",
    sqlite3.SQLITE_NOMEM: "memory is short: give the server more",
    sqlite3.SQLITE_PROTOCOL: "its locks don't work: keep it on a local file system",
}

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def error_code(error: sqlite3.Error) -> int:
    """Return the plain result code of SQLite, 0 when the error came from elsewhere."""
    return getattr(error, "sqlite_errorcode", 0) & _BASE_CODE


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return what to tell somebody of an error of SQLite."""
    code = error_code(error)
    if code in _CORRUPT:
        return corrupt(path, str(error))
    if code in _REASONS:
        return Unavailable(f"The store {path} does not work for now, {_REASONS[code]}; it goes on by itself ({error}).")
    return StoreError(f"The store {path} can't do this: {error}.")


def corrupt(path: Path, findings: str) -> StoreError:
    """Return what to tell somebody whose database is damaged."""
    from .sqlite_backup import backups

    newest = max(backups(path), default=None)
    advice = (
        f"from the newest backup, {newest}"
        if newest
        else f"from a backup of yours (there is none next to {path.parent})"
    )
    return StoreError(
        f"The store {path} is damaged ({findings}). It was left as it is. Stop the server and restore the store "
        f"{advice}: move {path.name}, {path.name}-wal and {path.name}-shm away, and copy the backup to {path}."
    )


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there stays as it is, with a warning if need be."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        logger.warning("Others may write to %s (mode %o), where the store is; run: chmod go-w %s", folder, mode, folder)


def private_file(path: Path) -> None:
    """Make a file that only its owner may read and write, or see to it that one that is there is so."""
    # O_NOFOLLOW is not set: a database may be a link to a file on a larger disk.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def private_database(path: Path) -> None:
    """Make the file of a database, private as `private_file` has it, and see to the files that SQLite keeps with it."""
    private_file(path)
    for companion in companions(path):
        if companion.exists():
            private_file(companion)


def companions(path: Path) -> tuple[Path, Path]:
    """Return the files that SQLite keeps next to a database while it is open; new ones get the mode of the database."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from one that was put in its place; zeros when there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a database for this process alone while the body runs.

    The lock is the kernel's and ends with the process, however it ends; the file next to the database stays.

    Raises:
        StoreError: another process has it.
    """
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"The store {path} is in use by the process {holder}. Stop that process, or give this one a folder of "
                "its own."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    """Open a database that exists; transactions are begun and ended by statements alone.

    The connection may be used by any thread, by one at a time.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        # FULL: what was acknowledged survives a loss of power. macOS needs to be told to mean it.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")
        # Replaced secrets don't linger in pages that are written anyway.
        connection.execute("PRAGMA secure_delete=FAST").fetchall()
        connection.execute("PRAGMA trusted_schema=OFF")
        # The log doesn't stay as large as it once had to be.
        connection.execute(f"PRAGMA journal_size_limit={32 * 1024 * 1024}").fetchall()
        if query_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection
