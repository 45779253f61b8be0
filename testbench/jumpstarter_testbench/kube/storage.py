"""The objects of the server with their versions, what happened to them, and who watches."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .status import Refusal, not_found

Object = dict[str, Any]
KindId = tuple[str, str]
"""Group and plural."""

KEPT = 100_000
"""Events that are remembered, until the storage is compacted."""

MOST_UNREAD = 10_000
"""Events that a watcher may be behind before its watch is ended."""


@dataclass(frozen=True)
class Event:
    """A change of an object, which is never changed in place."""

    version: int
    kind: KindId
    old: Object | None
    new: Object | None


class Watcher:
    """Receives the events of one kind as they happen."""

    def __init__(self, kind: KindId) -> None:
        self.kind = kind
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue(MOST_UNREAD)

    def tell(self, event: Event | None) -> None:
        """Queue an event; None ends the watch, and so does falling behind too far."""
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
            event = None
        self.queue.put_nowait(event)


class Storage:
    """Objects by kind, namespace and name; every change has a version of its own, greater than all before."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = self.version
        """Before this nothing is remembered."""
        self._objects: dict[KindId, dict[tuple[str, str], Object]] = {}
        self._log: list[Event] = []
        self._watchers: list[Watcher] = []
        self.listeners: list[Callable[[Event], None]] = []
        """Are called for each change, after it."""

    # -- reading -----------------------------------------------------------------------------------

    def find(self, kind: KindId, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        return self._objects.get(kind, {}).get((namespace, name))

    def get(self, kind: KindId, namespace: str, name: str) -> Object:
        """Return an object.

        Raises:
            Refusal: there is none.
        """
        found = self.find(kind, namespace, name)
        if found is None:
            raise not_found(f"{kind[1]}.{kind[0]}" if kind[0] else kind[1], name, kind[0])
        return found

    def all(self, kind: KindId, namespace: str = "") -> list[Object]:
        """Return the objects of a kind, of all namespaces when none is given, by namespace and name."""
        return [
            item
            for (place, _), item in sorted(self._objects.get(kind, {}).items())
            if not namespace or place == namespace
        ]

    def everything(self) -> Iterator[tuple[KindId, Object]]:
        """Iterate over all objects."""
        for kind, objects in list(self._objects.items()):
            for item in list(objects.values()):
                yield kind, item

    # -- writing -----------------------------------------------------------------------------------

    def put(self, kind: KindId, item: Object) -> Object:
        """Keep an object under its namespace and name; return it with its new version."""
        meta = item["metadata"]
        place = meta.get("namespace", ""), meta["name"]
        self.version += 1
        new = {**item, "metadata": {**meta, "resourceVersion": str(self.version)}}
        objects = self._objects.setdefault(kind, {})
        old = objects.get(place)
        objects[place] = new
        self._tell(Event(self.version, kind, old, new))
        return new

    def drop(self, kind: KindId, namespace: str, name: str) -> Object:
        """Remove an object; return its last state, with the version of the removal."""
        old = self._objects[kind].pop((namespace, name))
        self.version += 1
        last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
        self._tell(Event(self.version, kind, last, None))
        return last

    def _tell(self, event: Event) -> None:
        self._log.append(event)
        if len(self._log) > KEPT:
            self.compact(self._log[KEPT // 10].version)
        for watcher in self._watchers:
            if watcher.kind == event.kind:
                watcher.tell(event)
        for listener in self.listeners:
            listener(event)

    def compact(self, version: int | None = None) -> None:
        """Forget what happened up to a version; up to now when none is given."""
        self.oldest = self.version if version is None else version
        self._log = self._log[bisect_right(self._log, self.oldest, key=lambda event: event.version) :]

    # -- watching ----------------------------------------------------------------------------------

    def since(self, version: int, kind: KindId) -> list[Event]:
        """Return what happened to objects of a kind after a version.

        Raises:
            Refusal: that is too long ago.
        """
        if version < self.oldest:
            raise Refusal(410, "Expired", f"too old resource version: {version} ({self.oldest})")
        begin = bisect_right(self._log, version, key=lambda event: event.version)
        return [event for event in self._log[begin:] if event.kind == kind]

    def add_watcher(self, kind: KindId) -> Watcher:
        """Have somebody told from now on."""
        watcher = Watcher(kind)
        self._watchers.append(watcher)
        return watcher

    def remove_watcher(self, watcher: Watcher) -> None:
        """Tell somebody no more."""
        self._watchers.remove(watcher)

    def drop_watchers(self) -> None:
        """End all watches."""
        for watcher in self._watchers:
            watcher.tell(None)
