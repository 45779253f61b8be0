"""Temporary directories of a process: whoever makes one removes those that killed processes left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["PREFIX", "OwnedDirectory"]

PREFIX: Final = "jumpstarter-"

LOCK: Final = ".owner.lock"
"""A file that the owner of a directory holds a lock on (flock(2)), which the kernel drops when the owner is gone."""

_NEW_LOCK: Final = ".owner.lock.new"


class OwnedDirectory:
    """A temporary directory that only this user can enter, and that is removed with all it holds in the end.

    It is removed by `close`, by leaving the context, or, if this process is killed before that, by the next one of the
    same user that makes a directory with the same prefix.

    Args:
        prefix: how the name begins.
        parent: where it is made, by default where temporary files are.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, prefix: str = PREFIX, parent: str | os.PathLike[str] | None = None) -> None:
        place = os.fspath(parent) if parent is not None else tempfile.gettempdir()
        _remove_abandoned(place, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))  # mode 0700
        self._lock = _take(self.path)

    def close(self) -> None:
        """Remove the directory. May be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _take(path: Path) -> int | None:
    """Lock a fresh directory; returns the descriptor that holds the lock, None where the file system has no locks.

    The lock file gets its name when it is locked: whoever finds one without an owner knows that the owner is gone.
    """
    lock = os.open(path / _NEW_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(path / _NEW_LOCK, path / LOCK)
    except OSError:
        # Nobody will remove this one but its owner.
        os.close(lock)
        return None
    return lock


def _remove_abandoned(place: str, prefix: str) -> None:
    """Remove the directories of this user whose owners are gone; what can't be looked at is left alone."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            # Longer prefixes that begin like this one are not ours: mkdtemp(3) appends no dash.
            if not entry.name.startswith(prefix) or "-" in entry.name[len(prefix) :]:
                continue
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    """Raises: OSError: the owner is alive, or there is no lock: it is being made, or isn't of this kind."""
    lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Without a name it was removed by somebody else meanwhile.
        if os.fstat(lock).st_nlink:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
