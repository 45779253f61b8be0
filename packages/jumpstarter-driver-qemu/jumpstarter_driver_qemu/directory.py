"""The directory in which a machine keeps its disks, and what removes those that dead exporters left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

PREFIX: Final = "jumpstarter-qemu-"

_LOCK: Final = ".lock"


class StateDirectory:
    """A directory that belongs to one driver at a time.

    Args:
        path: where images are kept from session to session; None makes a temporary directory that close() removes.

    Raises:
        RuntimeError: another driver uses the directory.
    """

    def __init__(self, path: Path | None) -> None:
        self._temporary = path is None
        if path is None:
            _remove_abandoned()
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self.name = str(path)
        """The path as text."""
        self._lock = _locked(path)
        if self._lock is None:
            raise RuntimeError(f"another exporter, or another machine of this one, uses the directory {path}")

    def close(self) -> None:
        """Give the directory up, and remove it when it is temporary."""
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(path: Path) -> IO[bytes] | None:
    """Return a file that holds the lock of a directory, or None when somebody else has it."""
    file = (path / _LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _remove_abandoned() -> None:
    """Remove the directories of exporters that were killed: ours, and nobody holds their lock."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            # One without a lock is being made at this moment.
            if path.is_symlink() or path.stat().st_uid != os.getuid() or not (path / _LOCK).exists():
                continue
            if (lock := _locked(path)) is not None:
                with lock:
                    shutil.rmtree(path, ignore_errors=True)
