"""Messages while an interactive shell has the terminal: on lines of their own, with the prompt drawn anew below."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from .child import Child


@contextmanager
def beside_prompt(child: Child) -> Generator[None, None, None]:
    """Let what this process writes to stderr not run into what the interactive child shows."""
    stream = sys.stderr
    if not child.interactive or not stream.isatty():
        yield
        return
    beside = BesidePrompt(stream, child)
    sys.stderr = beside
    try:
        yield
    finally:
        sys.stderr = stream
        beside.finish()


class BesidePrompt:
    """Stands in for stderr at a terminal that a shell uses too."""

    def __init__(self, stream: Any, child: Child) -> None:
        self._stream, self._child = stream, child
        self._pending = ""
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Show the lines that are complete."""
        with self._lock:
            *lines, self._pending = (self._pending + text).split("\n")
            self._show([line.strip("\r") for line in lines])
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def finish(self) -> None:
        """Show what has not been ended by a line break."""
        with self._lock:
            if self._pending:
                self._stream.write(self._pending)
                self._pending = ""
            self._stream.flush()

    def _show(self, lines: list[str]) -> None:
        text = "".join(f"{line}\r\n" for line in lines if line)
        if not text:
            return
        pid = self._child.pid
        # A shell with job control is a process group of its own, in the foreground while it shows its prompt.
        prompting = pid is not None and self._foreground() == pid
        # A prompt is drawn anew below; what another program has written stays, wherever in a line that ended.
        start = "\r\x1b[K" if prompting else "\r\n" if pid is not None else ""
        self._stream.write(start + text)
        self._stream.flush()
        if prompting and pid is not None:
            with suppress(OSError):
                # Shells draw their prompt anew for a window that changes its size.
                os.kill(pid, signal.SIGWINCH)

    def _foreground(self) -> int | None:
        try:
            return os.tcgetpgrp(self._stream.fileno())
        except (OSError, ValueError):
            return None
