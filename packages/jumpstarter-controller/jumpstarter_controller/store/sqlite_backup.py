"""Backups of an SQLite store: made while it is in use, checked before they count, and put back."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from . import sqlite_schema
from .base import StoreError, Unavailable
from .sqlite_files import companions, connect, locked, private_folder, translate

_STEP_PAGES = 512
_NAME = re.compile(r"^\d{8}T\d{6}Z$")


def folder(path: Path) -> Path:
    """Return where the automatic backups of a store are."""
    return path.with_name(path.name + ".backups")


def backups(path: Path) -> list[Path]:
    """Return the automatic backups of a store, oldest first."""
    try:
        found = list(folder(path).iterdir())
    except OSError:
        return []
    return sorted(file for file in found if file.suffix == path.suffix and _NAME.match(file.stem))


def automatic_backup(path: Path, now: datetime, keep: int, stop: threading.Event | None = None) -> Path:
    """Make a backup with the time as its name, and remove the oldest ones but `keep`.

    Raises:
        StoreError: it could not be made; all others are still there.
    """
    target_folder = folder(path)
    try:
        private_folder(target_folder)
        free = shutil.disk_usage(target_folder).free
        needed = 2 * path.stat().st_size
    except OSError as error:
        raise Unavailable(f"The store {path} could not be backed up to {target_folder}: {error}.") from error
    if free < needed:
        raise Unavailable(
            f"The store {path} was not backed up: {target_folder} has {free >> 20} MiB free, and as much as a backup "
            f"takes has to remain for the store itself. Free {(needed - free >> 20) + 1} MiB there."
        )
    target = target_folder / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}{path.suffix}"
    backup(path, target, stop, replace=True)
    for old in backups(path)[:-keep]:
        old.unlink(missing_ok=True)
    return target


def backup_before_migration(path: Path, version: int) -> Path:
    """Make a backup of a store with tables of an older version; it is never removed automatically.

    Raises:
        StoreError: it could not be made.
    """
    private_folder(folder(path))
    target = folder(path) / f"before-version-{version + 1}{path.suffix}"
    backup(path, target, replace=True)
    return target


def backup(path: Path, target: Path, stop: threading.Event | None = None, *, replace: bool = False) -> None:
    """Copy a store that is in use, as it is at one moment, check the copy, and only then give it its name.

    Writers go on meanwhile. The copy has mode 0600 and holds the secrets of the server.

    Args:
        path: the database.
        target: the file to make.
        stop: gives up when it is set.
        replace: whether a file that is there may be replaced.

    Raises:
        StoreError: it could not be made.
    """
    if target.exists() and not replace:
        raise StoreError(f"The backup {target} already exists. Give another name, or remove it.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        # The parent has to exist: a mistyped path should fail, not make folders.
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        try:
            _copy(path, partial, stop or threading.Event())
            verify(partial, stop)
            _sync(partial)
            partial.replace(target)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"The backup {target} of the store {path} could not be made: {error}.") from error


def _copy(path: Path, target: Path, stop: threading.Event) -> None:
    def progress(status: int, remaining: int, total: int) -> None:
        if stop.is_set():
            raise StoreError(f"The backup {target} of the store {path} was given up, because the server ends.")

    try:
        with closing(connect(path, query_only=True)) as source, closing(sqlite3.connect(target)) as copy:
            # An open read transaction: the copy is of this moment, and isn't begun anew at every write.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(copy, pages=_STEP_PAGES, progress=progress)
            # One file, without a log next to it.
            copy.execute("PRAGMA journal_mode=DELETE").fetchall()
    except sqlite3.Error as error:
        raise _failed(path, target, error) from error


def verify(path: Path, stop: threading.Event | None = None) -> None:
    """Read all of a database that nobody writes to.

    Raises:
        StoreError: it is damaged, or `stop` was set.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            if stop is not None:
                connection.set_progress_handler(stop.is_set, 100_000)
            findings = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        raise translate(error, path) from error
    if findings != [("ok",)]:
        raise StoreError(f"{path} is damaged: {'; '.join(str(finding) for (finding,) in findings)}.")


def restore(source: Path, path: Path) -> list[Path]:
    """Put a backup in the place of a store that nobody uses; what is there is moved aside, not deleted.

    Returns:
        Where the former files are now.

    Raises:
        StoreError: the backup is damaged or of another program, or the store is in use; nothing was changed.
    """
    if not source.is_file():
        raise StoreError(f"There is no backup {source}.")
    private_folder(path.parent)
    with locked(path):
        verify(source)
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            sqlite_schema.version(connection, source)
        partial = path.with_name(f".{path.name}.restored")
        aside = []
        try:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            shutil.copyfile(source, partial)
            _sync(partial)
            suffix = f".before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            # The log of the former database would be taken for one of the new: it must not stay.
            for former in (path, *companions(path)):
                if former.exists():
                    aside.append(former.replace(former.with_name(former.name + suffix)))
            partial.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise Unavailable(f"The backup {source} could not be restored to {path}: {error}.") from error
        finally:
            partial.unlink(missing_ok=True)
    return aside


def _failed(path: Path, target: Path, error: sqlite3.Error) -> StoreError:
    cause = translate(error, path)
    return type(cause)(f"The backup {target} of the store could not be made. {cause}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
