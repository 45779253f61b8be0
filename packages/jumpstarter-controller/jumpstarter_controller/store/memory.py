"""A store that keeps nothing: for tests and simulations."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from ..clock import Clock, SystemClock
from ..model.records import AuditEntry, Key, Kind, Lease, Record
from .base import Changed, Conflict, Create, Delete, Deleted, Event, Exists, Missing, Update, Write
from .codec import stamp
from .hub import DEFAULT_LIMIT, Hub

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_CHUNK = 100
"""So many records are removed before others get a turn."""


class MemoryStore:
    """Records in memory; with transactions.

    Args:
        clock: tells times of creation.
        watch_limit: how many changes may wait for one watcher before it has to start again.
    """

    def __init__(self, *, clock: Clock | None = None, watch_limit: int = DEFAULT_LIMIT) -> None:
        self._clock = clock or SystemClock()
        self._hub = Hub(limit=watch_limit)
        self._records: dict[Key, Record] = {}
        self._held: dict[tuple[str, str], Key] = {}
        """Which lease has an exporter."""
        self._audit: list[AuditEntry] = []
        self._audited = 0
        self._secrets: dict[str, bytes] = {}
        self._version = 0

    async def __aenter__(self) -> MemoryStore:
        return self

    async def __aexit__(self, *args: object) -> None:
        self._hub.close()

    async def commit(self, *writes: Write) -> list[Record]:
        """Do all writes or none, as `Store.commit` has it."""
        await checkpoint()
        # What is to be, apart until all of it is known to be possible.
        records: dict[Key, Record | None] = {}
        held: dict[tuple[str, str], Key | None] = {}
        version = str(self._version + 1)
        done: list[Record] = []
        events: list[Changed | Deleted] = []
        for write in writes:
            key = write.key if isinstance(write, Delete) else write.record.key
            present = records[key] if key in records else self._records.get(key)
            record = self._next(write, key, present, version)
            if isinstance(present, Lease) and (held.get(_place(present)) or self._held.get(_place(present))) == key:
                held[_place(present)] = None
            if isinstance(write, Delete):
                records[key] = None
                events.append(Deleted(record))
            else:
                if isinstance(record, Lease) and record.exporter and not record.ended:
                    place = _place(record)
                    other = held[place] if place in held else self._held.get(place)
                    if other not in (None, key):
                        raise Conflict(key, f"{key} can't have exporter {record.exporter}: {other} has it.")
                    held[place] = key
                records[key] = record
                events.append(Changed(record))
            done.append(record)
        if writes:
            _merge(self._records, records)
            _merge(self._held, held)
            self._version += 1
            self._hub.publish(events)
        return done

    def _next(self, write: Write, key: Key, present: Record | None, version: str) -> Record:
        match write:
            case Create(record):
                if present is not None:
                    raise Exists(key, f"{key} already exists.")
                uid = record.meta.uid or str(uuid.uuid4())
                return stamp(record, uid=uid, version=version, created=record.meta.created or self._clock.now())
            case Update(record):
                known = _expect(present, key, record.meta.version)
                assert known.meta.created is not None
                return stamp(record, uid=known.meta.uid, version=version, created=known.meta.created)
            case Delete(_, expected):
                return _expect(present, key, expected or None)

    def watch(self, *kinds: Kind) -> AbstractAsyncContextManager[ObjectReceiveStream[Event]]:
        """Tell of everything there is and of every change, as `Store.watch` has it."""
        return self._hub.watch(*kinds)

    async def get(self, key: Key) -> Record | None:
        """Return a record, ended leases included."""
        await checkpoint()
        return self._records.get(key)

    async def ended_leases(
        self, namespace: str, *, limit: int = 0, after: str = "", newest_first: bool = False
    ) -> Sequence[Record]:
        """Return leases that have ended, as `Store.ended_leases` has it."""
        await checkpoint()
        names = [
            record.meta.name
            for record in self._records.values()
            if isinstance(record, Lease) and record.ended and record.meta.namespace == namespace
        ]
        names.sort(reverse=newest_first)
        if after:
            names = [name for name in names if (name < after if newest_first else name > after)]
        return [self._records[Key(Kind.LEASE, namespace, name)] for name in names[: limit or None]]

    async def collect(self, kind: Kind, before: datetime) -> int:
        """Remove leases that ended before a time; return how many."""
        if kind is not Kind.LEASE:
            raise ValueError(f"only leases are collected, not {kind}")
        await checkpoint()
        old = [
            key
            for key, record in self._records.items()
            if isinstance(record, Lease) and record.ended and record.ended_at is not None and record.ended_at < before
        ]
        for number, key in enumerate(old, 1):
            self._records.pop(key, None)
            if number % _CHUNK == 0:
                await checkpoint()
        return len(old)

    async def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries to the audit record."""
        await checkpoint()
        for entry in entries:
            self._audited += 1
            self._audit.append(replace(entry, id=self._audited))

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
        """Return audit entries, as `Store.audit` has it."""
        await checkpoint()
        found = [
            entry
            for entry in self._audit
            if (not namespace or entry.namespace == namespace)
            and (since is None or entry.time >= since)
            and (until is None or entry.time < until)
            and (not client or entry.client == client)
            and (not exporter or entry.exporter == exporter)
            and (not lease or entry.lease == lease)
            and (not action or entry.action == action or (action.endswith(".") and entry.action.startswith(action)))
            and (not after or (entry.id < after if newest_first else entry.id > after))
        ]
        return (found[::-1] if newest_first else found)[: limit or None]

    async def collect_audit(self, *, before: datetime | None = None, keep: int = 0) -> int:
        """Remove the oldest entries, those before a time and all but `keep`; return how many."""
        await checkpoint()
        count = len(self._audit)
        kept = [entry for entry in self._audit if before is None or entry.time >= before]
        self._audit = kept[-keep:] if keep else kept
        return count - len(self._audit)

    async def secrets(self) -> Mapping[str, bytes]:
        """Return the secrets of the server, by name."""
        await checkpoint()
        return dict(self._secrets)

    async def put_secret(self, name: str, value: bytes, *, replace: bool = False) -> bytes:
        """Keep a secret and return it; without `replace` one that is there already wins and is returned."""
        await checkpoint()
        if replace:
            self._secrets[name] = bytes(value)
        return self._secrets.setdefault(name, bytes(value))


def _place(lease: Lease) -> tuple[str, str]:
    return lease.meta.namespace, lease.exporter


def _merge(all_there_is: dict[K, V], changes: Mapping[K, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            all_there_is.pop(key, None)
        else:
            all_there_is[key] = value


def _expect(present: Record | None, key: Key, version: str | None) -> Record:
    """Return a record that has the expected version; None for any."""
    if present is None:
        raise Missing(key, f"{key} does not exist.")
    if version is not None and version != present.meta.version:
        raise Conflict(
            key, f"{key} was changed meanwhile (version {present.meta.version}, expected {version or 'none'})."
        )
    return present
