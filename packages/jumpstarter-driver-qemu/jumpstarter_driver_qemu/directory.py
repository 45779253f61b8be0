"""The directory in which a machine keeps its disks."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Final

from jumpstarter.common.owned_directory import OwnedDirectory

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
        self._temporary: OwnedDirectory | None = None
        self._lock: IO[bytes] | None = None
        if path is None:
            self._temporary = OwnedDirectory(PREFIX)
            self.path = self._temporary.path
        else:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path = path
            self._lock = _locked(path)
        self.name = str(self.path)
        """The path as text."""

    def close(self) -> None:
        """Give the directory up, and remove it when it is temporary."""
        if self._temporary is not None:
            self._temporary.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(path: Path) -> IO[bytes]:
    """Return a file that holds the lock of a directory.

    Raises:
        RuntimeError: somebody else has it.
    """
    file = (path / _LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RuntimeError(f"another exporter, or another machine of this one, uses the directory {path}") from None
    return file
