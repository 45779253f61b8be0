"""Collects the log records of a session and hands them to every client that follows them."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Protocol

from anyio import Event
from jumpstarter_protocol import jumpstarter_pb2

from jumpstarter.common.enums import LogSource

from .logging_protocol import LoggerRegistration

BACKLOG = 256
"""Records that are kept for clients that start to follow later, or that read slowly."""

MAX_MESSAGE = 64 * 1024
"""Characters of one record that are sent to clients."""

current_session: ContextVar[object | None] = ContextVar("current_session", default=None)
"""The session on whose behalf the running code works; None for the exporter's own work."""


class RecordSink(Protocol):
    """Where a handler puts its records; a deque will do."""

    def append(self, item: Any, /) -> None:
        """Take one record."""
        ...


class LogBuffer:
    """The latest records of a session, numbered, so that each reader has a place of its own."""

    def __init__(self, limit: int = BACKLOG) -> None:
        self._lock = Lock()
        self._records: deque[jumpstarter_pb2.LogStreamResponse] = deque(maxlen=limit)
        self._written = 0
        self._waiting: list[tuple[AbstractEventLoop, Event]] = []

    def append(self, item: jumpstarter_pb2.LogStreamResponse) -> None:
        """Add a record, dropping the oldest when full; callable from any thread."""
        with self._lock:
            self._records.append(item)
            self._written += 1
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:
                # The reader's loop has ended, and the reader with it.
                continue

    async def follow(self) -> AsyncGenerator[jumpstarter_pb2.LogStreamResponse, None]:
        """Yield what is kept, then every further record; one that reads too slowly misses some."""
        position = 0
        while True:
            with self._lock:
                oldest = self._written - len(self._records)
                start = max(position, oldest) - oldest
                missed = oldest - position if position else 0
                batch = list(self._records)[start:]
                position = self._written
                event = None
                if not batch:
                    event = Event()
                    self._waiting.append((get_running_loop(), event))
            if missed > 0:
                yield jumpstarter_pb2.LogStreamResponse(
                    severity="WARNING",
                    message=f"{missed} log lines were dropped because they came faster than they were read",
                    source=LogSource.SYSTEM.to_proto(),
                )
            for record in batch:
                yield record
            if event is not None:
                await event.wait()


class LogHandler(logging.Handler):
    """Turns log records into the form of the wire and appends them to `queue`.

    The source of a record is that of the longest registered logger name at or above its own,
    else `source`.
    """

    def __init__(
        self, queue: RecordSink, source: LogSource = LogSource.UNSPECIFIED, owner: object | None = None
    ) -> None:
        super().__init__()
        self.queue = queue
        self.source = source
        self._owner = owner
        self._children: dict[str, LogSource] = {}
        self._cache: dict[str, LogSource] = {}

    def add_child_handler(self, logger_name: str, source: LogSource) -> None:
        """Attribute the records of a logger, and of those below it, to `source`."""
        self._children[logger_name.rstrip(".")] = source
        self._cache = {}

    def remove_child_handler(self, logger_name: str) -> None:
        """Take back what `add_child_handler` said of a logger."""
        self._children.pop(logger_name.rstrip("."), None)
        self._cache = {}

    def get_source_for_record(self, record: logging.LogRecord) -> LogSource:
        """Return the source that a record is attributed to."""
        known = self._cache.get(record.name)
        if known is None:
            known = self._find_source(record.name)
            self._cache[record.name] = known
        return known

    def _find_source(self, name: str) -> LogSource:
        prefix = name
        while prefix:
            if prefix in self._children:
                return self._children[prefix]
            prefix = prefix.rpartition(".")[0]
        return self.source

    @contextmanager
    def context_log_source(self, logger_name: str, source: LogSource) -> Generator[None, None, None]:
        """Attribute a logger's records to `source` while the body runs."""
        name = logger_name.rstrip(".")
        before = self._children.get(name)
        self.add_child_handler(name, source)
        try:
            yield
        finally:
            self.remove_child_handler(name)
            if before is not None:
                self.add_child_handler(name, before)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record, unless another session's work wrote it."""
        owner = current_session.get()
        if owner is not None and self._owner is not None and owner is not self._owner:
            return
        try:
            message = record.getMessage()
            self.queue.append(
                jumpstarter_pb2.LogStreamResponse(
                    uuid="",
                    severity=record.levelname,
                    message=message[:MAX_MESSAGE].encode("utf-8", "replace").decode(),
                    source=self.get_source_for_record(record).to_proto(),
                )
            )
        except Exception:  # noqa: BLE001 (logging must not break what logs; handleError reports it)
            self.handleError(record)


def get_logger(
    name: str, source: LogSource = LogSource.SYSTEM, session: LoggerRegistration | None = None
) -> logging.Logger:
    """Return a logger whose records the session, if given, attributes to `source`."""
    if session is not None:
        session.add_logger_source(name, source)
    return logging.getLogger(name)
