"""Messages while an interactive shell has the terminal: above the line that is being written, which stays as it is."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Generator
from contextlib import contextmanager
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
        width, height = self._size()
        rows = [row for line in lines for row in textwrap.wrap(line, width - 1)]
        if not rows:
            return
        if self._child.pid is None:
            text = "".join(f"{row}\r\n" for row in rows)
        elif os.environ.get("TERM", "dumb") == "dumb" or len(rows) > height // 2:
            text = "\r\n" + "".join(f"{row}\r\n" for row in rows)
        else:
            text = _above(rows)
        self._stream.write(text)
        self._stream.flush()

    def _size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        # A terminal that doesn't know its size says 0.
        return max(columns or 80, 20), max(rows or 24, 4)


def _above(rows: list[str]) -> str:
    """Return what inserts rows above the one that the cursor is in, which keeps what it shows (ECMA-48, 8.3.67 IL)."""
    count = len(rows)
    # Room below, by scrolling where there is none; then the row moves down, and the cursor follows it in its column.
    room = "\x1bD" * count + f"\x1b[{count}A"
    return f"{room}\x1b7\r\x1b[{count}L" + "\r\n".join(rows) + f"\x1b8\x1b[{count}B"
