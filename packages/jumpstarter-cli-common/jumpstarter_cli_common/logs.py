"""Log lines of the commands: on stderr, never on stdout, with their source named once per run of lines."""

from __future__ import annotations

import logging
import sys
from typing import Any


class SourcePrefixFormatter(logging.Formatter):
    """Formats records as `[logger] message`; consecutive records of one logger show the prefix once.

    Records above INFO are opened by their level.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: str | None = None

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without traceback."""
        level = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        text = f"{level}{record.message}"
        if record.name == self._last or record.name == "root":
            return text
        self._last = record.name
        return f"[{record.name}] {text}"

    def formatException(self, ei: Any) -> str:
        """Return the traceback at log level debug, else where the exception was raised: what a report needs."""
        if logging.getLogger().level <= logging.DEBUG:
            return super().formatException(ei)
        import traceback

        frames = traceback.extract_tb(ei[2])
        if not frames:
            return ""
        last = frames[-1]
        return f"  raised at {last.filename}:{last.lineno} in {last.name}; --log-level debug shows how it got there"

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        # The formatted exception is kept for other handlers, which may want the whole of it.
        kept, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = kept


class JSONFormatter(logging.Formatter):
    """Formats a record as a JSON object: `time` (UTC), `level`, `logger`, `message`, perhaps `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        import json
        from datetime import UTC, datetime

        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(SourcePrefixFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # stderr is closed or its reader gone: there is nobody left to tell.
            return


def set_format(name: str) -> None:
    """Write log lines for people (`text`) or as JSON objects (`json`) from now on."""
    formatter: logging.Formatter = JSONFormatter() if name.lower() == "json" else SourcePrefixFormatter()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StderrHandler):
            handler.setFormatter(formatter)


def setup_logging(level: str) -> None:
    """Send log records of `level` (a level name) and above to stderr; may be called again to change the level."""
    root = logging.getLogger()
    if not any(isinstance(handler, StderrHandler) for handler in root.handlers):
        root.addHandler(StderrHandler())
    root.setLevel(level.upper())
