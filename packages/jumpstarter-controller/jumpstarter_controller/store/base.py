"""What a store of records can do; every store passes the same tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from anyio.abc import ObjectReceiveStream

from ..model.records import AuditEntry, Key, Kind, Record


class StoreError(Exception):
    """The store can't do what it is asked for; the text says what failed, on which file or server, and what to do."""


class Conflict(StoreError):
    """A record is not (any more) in the state that a write expected: look again, and decide again."""

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


class Exists(Conflict):
    """A record to be created is there already."""


class Missing(Conflict):
    """A record to be changed or deleted is not there."""


class Unavailable(StoreError):
    """The store can't be reached, is full or read-only for now; the same request may succeed later."""


@dataclass(frozen=True)
class Create:
    """Add a record; uid, version and time of creation are given by the store where they are empty."""

    record: Record


@dataclass(frozen=True)
class Update:
    """Replace a record of which `record.meta.version` is the expected version."""

    record: Record


@dataclass(frozen=True)
class Delete:
    """Remove a record; `version` is the expected one, empty for any."""

    key: Key
    version: str = ""


Write = Create | Update | Delete


@dataclass(frozen=True)
class Changed:
    """A record was created or changed."""

    record: Record


@dataclass(frozen=True)
class Deleted:
    """A record was removed; this is its last state."""

    record: Record


@dataclass(frozen=True)
class Restarted:
    """Changes may have been missed: what follows is everything, ending with `Current`."""


@dataclass(frozen=True)
class Current:
    """Everything that there was has been told."""


Event = Changed | Deleted | Restarted | Current


class Store(Protocol):
    """Keeps records, with optimistic locking, and tells of changes.

    Opened and closed as an asynchronous context manager. Every method may raise `Unavailable`.
    """

    async def __aenter__(self) -> Store: ...

    async def __aexit__(self, *args: object) -> None: ...

    async def commit(self, *writes: Write) -> list[Record]:
        """Do all writes or none, and return the records as they are now (the last state of deleted ones).

        A store without transactions does them in the order given and stops at the first that conflicts; callers put
        the write that guards the others first. Two leases that have not ended never name one exporter: such a write
        is a conflict. When this returns, watchers of this process have been told.

        Raises:
            Conflict: a record is not in the expected state; nothing was done (or see above).
        """
        ...

    def watch(self, *kinds: Kind) -> AbstractAsyncContextManager[ObjectReceiveStream[Event]]:
        """Tell everything that there is, then `Current`, then every change, in the order of the commits.

        A reader that doesn't keep up gets a `Restarted`, not an ever longer queue. Of leases only those that have not
        ended are told at first.
        """
        ...

    async def get(self, key: Key) -> Record | None:
        """Return a record, ended leases included."""
        ...

    async def ended_leases(
        self, namespace: str, *, limit: int = 0, after: str = "", newest_first: bool = False
    ) -> Sequence[Record]:
        """Return leases that have ended, ordered by name, from the one after the name `after`; 0 is no limit."""
        ...

    async def collect(self, kind: Kind, before: datetime) -> int:
        """Remove leases that ended before a time; return how many."""
        ...

    async def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries to the audit record; they are durable when this returns."""
        ...

    async def audit(
        self,
        *,
        namespace: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        client: str = "",
        exporter: str = "",
        lease: str = "",
        action: str = "",
        limit: int = 100,
        after: int = 0,
        newest_first: bool = False,
    ) -> Sequence[AuditEntry]:
        """Return audit entries; an action that ends in a dot takes all that begin so; `after` is an entry's id."""
        ...

    async def collect_audit(self, *, before: datetime | None = None, keep: int = 0) -> int:
        """Remove the oldest entries, those before a time or all but `keep`; return how many."""
        ...

    async def secrets(self) -> Mapping[str, bytes]:
        """Return the secrets of the server (signing keys), by name."""
        ...

    async def put_secret(self, name: str, value: bytes, *, replace: bool = False) -> bytes:
        """Keep a secret and return it; without `replace` one that is there already wins and is returned."""
        ...
