"""One run of the program µStreamer: its process, its socket and its last words."""

from __future__ import annotations

import logging
import re
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from jumpstarter.common.guard import GuardedProcess

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""

KEPT_LINES: Final = 30
"""Lines of output that are kept for error messages."""

MAX_LINE: Final = 2000
"""Bytes of a line; longer ones are cut."""

# "-- ERROR [24256.967    stream] -- Can't access device", with colours on some versions.
_LINE: Final = re.compile(r"-- (\w+)\s+\[[^\]]*\] -- (.*)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class Daemon:
    """A running µStreamer. Blocking, for use in worker threads.

    The process dies with this one, however that ends, and so does its directory with the socket.

    Args:
        command: program and options, without those for the socket.
        logger: gets what µStreamer says.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, command: Sequence[str], logger: logging.Logger) -> None:
        self._logger = logger
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._last_error = ""
        folder = Path(tempfile.mkdtemp(prefix="jumpstarter-ustreamer-"))
        self.socket = folder / "socket"
        self.started = time.monotonic()
        """When it was started, by the monotonic clock."""
        try:
            self._process = GuardedProcess(
                [*command, "--unix", str(self.socket), "--unix-rm"],
                grace=GRACE,
                remove=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            folder.rmdir()
            raise
        self._reader = threading.Thread(target=self._read, name="µStreamer messages", daemon=True)
        self._reader.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, or rather its guard, which ends when it does and with its exit status."""
        return self._process.popen

    @property
    def status(self) -> int | None:
        """The exit status, negative for a death by signal, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """Return the exit status when it has ended, or None when it hasn't within `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout)
        return None

    @property
    def camera_error(self) -> str:
        """What µStreamer last said is wrong with the camera; empty when nothing is."""
        return self._last_error

    def last_words(self) -> str:
        """Return the end of what µStreamer said."""
        with suppress(RuntimeError):
            self._reader.join(1.0)
        return "\n".join(self._lines) or "µStreamer said nothing about it."

    def stop(self) -> None:
        """End it; returns when it is gone."""
        self._process.stop()
        self._reader.join(GRACE)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(OSError, ValueError):
            while line := self.process.stdout.readline(MAX_LINE):
                self._take(_COLOUR.sub("", line.decode(errors="replace")).rstrip())

    def _take(self, line: str) -> None:
        if not line.strip("= "):
            return
        self._lines.append(line)
        found = _LINE.match(line)
        kind, text = (found[1], found[2]) if found else ("", line)
        if text.startswith("Capturing started"):
            self._last_error = ""
        if kind == "ERROR" and text != self._last_error:
            self._last_error = text
            self._logger.warning("µStreamer: %s", text)
        else:
            # A camera that is missing is an error every second.
            self._logger.debug("µStreamer: %s", text)
