"""What the cluster has of one kind, followed by lists and watches, and what this process has just written to it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskStatus
from jumpstarter_kubernetes.cluster import Cluster, WatchEvent
from jumpstarter_kubernetes.exceptions import ClusterError, Gone

from ...model.records import Key, Kind, Record
from ..base import Changed, Deleted
from ..hub import Hub, ended
from .objects import RESOURCES, Unreadable, decode
from .values import Object

logger = logging.getLogger(__name__)

PAGE = 500
"""Objects of one answer."""

PAUSE = 0.5
LONGEST_PAUSE = 5.0
"""Seconds between two attempts to follow a cluster that is away."""

REMEMBERED = 10_000
"""So many removed objects are remembered, whose late changes are not to be told."""


@dataclass(frozen=True)
class Place:
    """Which objects are followed."""

    kind: Kind
    labels: str = ""
    """Selector."""
    namespace: str = ""
    """Empty for all."""


class Mirror:
    """Tells the hub what becomes of the objects of one kind.

    Versions are compared as numbers, as Kubernetes allows since 1.35 and has had them ever before.
    """

    def __init__(
        self, cluster: Cluster, hub: Hub, place: Place, *, heal: Callable[[Record], None] = lambda record: None
    ) -> None:
        self.place = place
        self._cluster = cluster
        self._hub = hub
        self._heal = heal
        self._versions: dict[Key, int] = {}
        """Of what was told last."""
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._unreadable: set[str] = set()
        self._kept: dict[Key, WatchEvent | None] = {}
        self.connected = False

    # -- what is written here ----------------------------------------------------------------------

    @contextmanager
    def writing(self, key: Key) -> Iterator[None]:
        """Keep what the cluster tells of a record until the body, which writes it in several steps, is done."""
        if key in self._kept:
            # Of two who write the same record one will fail; the first one looks after what is told.
            yield
            return
        self._kept[key] = None
        try:
            yield
        finally:
            event = self._kept.pop(key)
            if event is not None:
                self._take(event)

    def wrote(self, record: Record) -> None:
        """Tell of a record as it was just written; the watch will tell the same a moment later."""
        version = int(record.meta.version)
        if self._versions.get(record.key, 0) >= version:
            return
        if ended(record):
            self._versions.pop(record.key, None)
        else:
            self._versions[record.key] = version
        self._hub.publish([Changed(record)])

    def removed(self, record: Record, uid: str) -> None:
        """Tell that a record was just removed.

        Args:
            uid: of the object.
        """
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        self._versions.pop(record.key, None)
        self._hub.publish([Deleted(record)])

    # -- what the cluster tells --------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow for good; started when everything there is has been told.

        Raises:
            ClusterError: at the start, when the cluster can't be read.
        """
        started = told = False
        pause = PAUSE
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    if not started:
                        started = True
                        task_status.started()
                async with self._watch(version) as events:
                    self.connected, told, pause = True, False, PAUSE
                    async for event in events:
                        version = event.object["metadata"]["resourceVersion"]
                        self._take(event)
                continue
            except Gone:
                logger.info("%s: the watch can't be continued, everything is read again", self.place.kind)
                version = ""
            except ClusterError as error:
                if not started:
                    raise
                if not told:
                    logger.warning("%s can't be followed for now: %s", self.place.kind, error)
                    told = True
            self.connected = False
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _watch(self, version: str) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        place = self.place
        return self._cluster.watch(
            RESOURCES[place.kind],
            version=version,
            namespace=place.namespace or None,
            all_namespaces=not place.namespace,
            labels=place.labels,
        )

    async def _list(self) -> str:
        resource, place = RESOURCES[self.place.kind], self.place
        told: set[Key] = set()
        more = version = ""
        before = set(self._versions)
        while True:
            page = await self._cluster.list(
                resource,
                namespace=place.namespace or None,
                all_namespaces=not place.namespace,
                labels=place.labels,
                limit=PAGE,
                more=more,
            )
            for item in page.items:
                record = self._read(item)
                if record is None:
                    continue
                told.add(record.key)
                self._put(record)
                self._heal(record)
            version, more = page.version, page.more
            if not more:
                break
        missing = [key for key in before - told if self._versions.get(key, 0) <= int(version)]
        for key in missing:
            self._drop(key)
        return version

    def _take(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK" or (record := self._read(event.object)) is None:
            return
        if record.key in self._kept:
            self._kept[record.key] = event
            return
        uid = event.object["metadata"]["uid"]
        if event.type != "DELETED":
            if uid not in self._gone:
                self._put(record)
        elif uid in self._gone:
            del self._gone[uid]
        elif self._versions.get(record.key, 0) < int(record.meta.version):
            self._drop(record.key)

    def _read(self, item: Object) -> Record | None:
        try:
            return decode(self.place.kind, item)
        except Unreadable as error:
            uid = str((item.get("metadata") or {}).get("uid"))
            if uid not in self._unreadable:
                self._unreadable.add(uid)
                logger.warning("%s; it is left out until it is mended", error)
            return None

    def _put(self, record: Record) -> None:
        if ended(record) and self._hub.get(record.key) is None:
            # That it has ended has been told.
            return
        self.wrote(record)

    def _drop(self, key: Key) -> None:
        self._versions.pop(key, None)
        known = self._hub.get(key)
        if known is not None:
            self._hub.publish([Deleted(known)])
