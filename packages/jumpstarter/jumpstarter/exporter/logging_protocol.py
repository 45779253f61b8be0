"""What a session offers to those who want their log lines attributed to a source."""

from __future__ import annotations

from typing import Protocol

from jumpstarter.common.enums import LogSource


class LoggerRegistration(Protocol):
    """Takes note of which loggers write for which source."""

    def add_logger_source(self, logger_name: str, source: LogSource) -> None:
        """Attribute records of the logger, and of those below it, to `source`."""
        ...
