"""Which exporters are connected: counted in memory; the store hears only of exporters that come and go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from ..model.records import Exporter, ExporterStatus, Key, Kind, Record
from ..store.base import Update, Write
from .core import SERVER, Core

_SELF_DECLARED = (ExporterStatus.OFFLINE, ExporterStatus.UNSPECIFIED)
"""What exporters report that are not online although they are connected."""


class Presence:
    """Counts the streams of exporters, and declares offline those that have had none for a while."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._streams: dict[Key, int] = {}
        self._contact: dict[Key, datetime] = {}
        """When those without a stream were heard of last."""
        core.listeners.append(self._changed)

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        if not isinstance(record, Exporter):
            return
        key = record.key
        if not isinstance(new, Exporter):
            self._contact.pop(key, None)
            self._core.set_timer("exporter", key, None)
        elif key in self._streams and new.status not in _SELF_DECLARED:
            # Another server, to which it is not connected any more, may have given it up.
            self.update(key)

    def heard(self, key: Key) -> None:
        """Take note of a sign of life of an exporter."""
        if key not in self._streams and self._core.world.exporter(key) is not None:
            now = self._core.now()
            self._contact[key] = now
            self._core.set_timer("exporter", key, now + self._core.settings.leases.offline_after)

    @contextmanager
    def connected(self, key: Key) -> Iterator[None]:
        """Count an exporter as connected."""
        self._streams[key] = self._streams.get(key, 0) + 1
        self._contact.pop(key, None)
        self._core.set_timer("exporter", key, None)
        self.update(key)
        try:
            yield
        finally:
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]
                self.heard(key)

    def expect_all(self) -> None:
        """Give all that count as online, and are connected to no server, the time to connect: another one had them."""
        for namespace in self._core.world.namespaces(Kind.EXPORTER):
            for exporter in self._core.world.exporters(namespace):
                if exporter.online and not self._elsewhere(exporter):
                    self.heard(exporter.key)

    def _elsewhere(self, exporter: Exporter) -> bool:
        """Return whether it is another server's to say that an exporter is not connected any more."""
        neighbours = self._core.neighbours
        if neighbours is None or exporter.via in ("", neighbours.identity):
            return False
        # Whose server is gone is looked after by the one that decides.
        return neighbours.alive(exporter.via) or not self._core.leading

    def last_seen(self, exporter: Exporter) -> datetime | None:
        """Return when an exporter was heard of last; now for connected ones."""
        if exporter.key in self._streams:
            return self._core.now()
        return self._contact.get(exporter.key) or exporter.last_seen

    def is_connected(self, key: Key) -> bool:
        """Return whether an exporter has a stream to this process."""
        return key in self._streams

    def count(self) -> int:
        """Return how many exporters have a stream to this process."""
        return len(self._streams)

    def update(self, key: Key) -> None:
        """Have the store told whether an exporter is online, if it does not know."""
        exporter = self._core.world.exporter(key)
        if exporter is not None and self._differs(exporter):
            self._core.chores.add(("presence", key), lambda: self._write(key))

    def _differs(self, exporter: Exporter) -> bool:
        wanted = self._wanted(exporter)
        moved = wanted and exporter.key in self._streams and exporter.via != self._core.identity
        return wanted != exporter.online or moved

    def _wanted(self, exporter: Exporter) -> bool:
        key = exporter.key
        if key in self._streams:
            return exporter.status is not ExporterStatus.OFFLINE
        if not exporter.online:
            return False
        if self._elsewhere(exporter):
            return True
        contact = self._contact.get(key)
        return contact is None or contact + self._core.settings.leases.offline_after > self._core.now()

    async def _write(self, key: Key) -> None:
        changed: list[Exporter] = []

        def build() -> Sequence[Write]:
            changed.clear()
            exporter = self._core.world.exporter(key)
            if exporter is None or not self._differs(exporter):
                return ()
            wanted = self._wanted(exporter)
            via = self._core.identity if wanted else ""
            moved = replace(exporter, online=wanted, last_seen=self.last_seen(exporter), via=via)
            if wanted != exporter.online:
                changed.append(moved)
            return (Update(moved),)

        await self._core.ledger.transact(build)
        for exporter in changed:
            if not exporter.online:
                self._contact.pop(key, None)
            self._core.audit(
                SERVER,
                "exporter.online" if exporter.online else "exporter.offline",
                key.namespace,
                exporter=key.name,
                lease=exporter.lease,
                reason="connected" if exporter.online else "connection lost",
            )
