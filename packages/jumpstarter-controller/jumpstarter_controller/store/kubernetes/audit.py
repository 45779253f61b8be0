"""The audit record in a cluster: compressed pieces in ConfigMaps, each written by one process."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import anyio
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Conflict, NotFound
from jumpstarter_kubernetes.resources import CONFIG_MAPS
from pydantic import TypeAdapter

from ...model.records import AuditEntry
from ...model.uuid7 import uuid7
from .values import PREFIX, Object, from_time, to_time

LABEL = f"{PREFIX}audit"
FIRST, LAST, COUNT = f"{PREFIX}first", f"{PREFIX}last", f"{PREFIX}count"
NUMBERS = f"{PREFIX}numbers"
"""Annotations of a piece: times of its first and last entry, their number, and the numbers of the first and last."""

FULL = 24 << 10
"""Bytes, compressed, from which on another piece is begun. Each addition writes a piece anew, so they stay small."""

PAGE = 100
CACHED = 64

_ENTRIES = TypeAdapter(list[AuditEntry])


class Audit:
    """Writes and reads the pieces.

    Args:
        now: the time of the clock.
    """

    def __init__(self, cluster: Cluster, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._now = now
        self._lock = anyio.Lock()
        self._current: Object | None = None
        self._entries: list[AuditEntry] = []
        self._last = 0
        self._cache: OrderedDict[tuple[str, str], list[AuditEntry]] = OrderedDict()

    # -- writing -----------------------------------------------------------------------------------

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries.

        Raises:
            ClusterError: they could not be written.
        """
        async with self._lock:
            numbered = [replace(entry, id=self._number()) for entry in entries]
            if self._current is not None and await self._add(numbered):
                return
            await self._begin(numbered)

    def _number(self) -> int:
        """Return a number that is greater than all before, here and at other processes as far as clocks agree."""
        self._last = max(self._last + 1, time.time_ns() // 1000 << 8)
        return self._last

    async def _add(self, entries: list[AuditEntry]) -> bool:
        """Add to the present piece; return whether that was possible."""
        assert self._current is not None
        merged = self._entries + entries
        body = _piece(self._current["metadata"]["name"], merged)
        body["metadata"]["resourceVersion"] = self._current["metadata"]["resourceVersion"]
        try:
            self._current = await self._cluster.replace(CONFIG_MAPS, body)
        except (Conflict, NotFound):
            # Somebody else has removed or changed it.
            self._current = None
            return False
        self._entries = merged
        if len(body["binaryData"]["entries"]) * 3 // 4 > FULL:
            self._current, self._entries = None, []
        return True

    async def _begin(self, entries: list[AuditEntry]) -> None:
        body = _piece(f"jumpstarter-audit-{uuid7(self._now())}", entries)
        try:
            self._current = await self._cluster.create(CONFIG_MAPS, body)
        except AlreadyExists:
            # The answer to a former attempt was lost.
            self._current = await self._cluster.get(CONFIG_MAPS, body["metadata"]["name"])
        self._entries = list(entries)
        if len(body["binaryData"]["entries"]) * 3 // 4 > FULL:
            self._current, self._entries = None, []

    # -- reading -----------------------------------------------------------------------------------

    async def read(
        self,
        *,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        after: int,
        newest_first: bool,
        wanted: Callable[[AuditEntry], bool],
    ) -> list[AuditEntry]:
        """Return entries by number."""
        found: list[AuditEntry] = []
        async for piece in self._pieces():
            notes = piece["metadata"]["annotations"]
            first, last = (int(number) for number in notes[NUMBERS].split(","))
            if (since is not None and to_time(notes[LAST]) < since) or (until and to_time(notes[FIRST]) >= until):
                continue
            if after and (first >= after if newest_first else last <= after):
                continue
            for entry in self._entries_of(piece):
                beyond = not after or (entry.id < after if newest_first else entry.id > after)
                timely = (since is None or entry.time >= since) and (until is None or entry.time < until)
                if beyond and timely and wanted(entry):
                    found.append(entry)
            if limit and len(found) > 4 * limit:
                found = _sorted(found, newest_first)[:limit]
        return _sorted(found, newest_first)[: limit or None]

    async def _pieces(self) -> Any:
        more = ""
        while True:
            page = await self._cluster.list(CONFIG_MAPS, labels=f"{LABEL}=true", limit=PAGE, more=more)
            for piece in page.items:
                yield piece
            more = page.more
            if not more:
                return

    def _entries_of(self, piece: Object) -> list[AuditEntry]:
        meta = piece["metadata"]
        key = meta["uid"], meta["resourceVersion"]
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        content = gzip.decompress(base64.b64decode(piece["binaryData"]["entries"]))
        entries = _ENTRIES.validate_json(content)
        self._cache[key] = entries
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return entries

    # -- removing ----------------------------------------------------------------------------------

    async def collect(self, *, before: datetime | None, keep: int) -> int:
        """Remove the oldest entries, piece by piece and the last one in part; return how many."""
        async with self._lock:
            pieces = [piece async for piece in self._pieces()]
            entries = [entry for piece in pieces for entry in self._entries_of(piece)]
            kept = _sorted([entry for entry in entries if before is None or entry.time >= before], newest_first=True)
            if keep:
                kept = kept[:keep]
            numbers = {entry.id for entry in kept}
            for piece in pieces:
                present = self._entries_of(piece)
                rest = [entry for entry in present if entry.id in numbers]
                if len(rest) == len(present):
                    continue
                await self._cut(piece, rest)
            return len(entries) - len(kept)

    async def _cut(self, piece: Object, rest: list[AuditEntry]) -> None:
        name = piece["metadata"]["name"]
        if self._current is not None and name == self._current["metadata"]["name"]:
            self._current, self._entries = None, []
        try:
            if not rest:
                await self._cluster.delete(CONFIG_MAPS, name, version=piece["metadata"]["resourceVersion"])
                return
            body = _piece(name, rest)
            body["metadata"]["resourceVersion"] = piece["metadata"]["resourceVersion"]
            await self._cluster.replace(CONFIG_MAPS, body)
        except (Conflict, NotFound):
            # Another process adds to it; it will be old enough another time.
            return


def _piece(name: str, entries: list[AuditEntry]) -> Object:
    content = gzip.compress(_ENTRIES.dump_json(entries), compresslevel=6, mtime=0)
    notes: Mapping[str, str] = {
        FIRST: from_time(min(entry.time for entry in entries)),
        LAST: from_time(max(entry.time for entry in entries)),
        COUNT: json.dumps(len(entries)),
        NUMBERS: f"{entries[0].id},{entries[-1].id}",
    }
    return {
        "metadata": {"name": name, "labels": {LABEL: "true"}, "annotations": dict(notes)},
        "binaryData": {"entries": base64.b64encode(content).decode()},
    }


def _sorted(entries: list[AuditEntry], newest_first: bool) -> list[AuditEntry]:
    return sorted(entries, key=lambda entry: entry.id, reverse=newest_first)


__all__ = ["Audit", "ClusterError"]
