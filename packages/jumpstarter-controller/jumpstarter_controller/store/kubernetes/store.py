"""A store on Kubernetes: records are objects, versions are theirs, and changes are told by watches."""

from __future__ import annotations

import base64
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

import anyio
from anyio.abc import ObjectReceiveStream, TaskGroup
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Gone, NotFound
from jumpstarter_kubernetes.exceptions import Conflict as ClusterConflict
from jumpstarter_kubernetes.resources import LEASES, SECRETS
from jumpstarter_kubernetes.values import KIND_LABEL

from ...clock import Clock, SystemClock
from ...model.records import ENDED_LABEL, AuditEntry, Key, Kind, Lease, Record
from ..base import Conflict, Create, Delete, Event, Missing, Update, Write
from ..hub import DEFAULT_LIMIT, Hub
from .audit import Audit
from .errors import translated
from .mirror import Mirror, Place
from .objects import RESOURCES, decode, encode, object_name
from .values import PREFIX, Object, difference

logger = logging.getLogger(__name__)

PAGE = 500

PLACES_KEPT = 64
"""So many places are remembered where lists of ended leases were left."""

AT_ONCE = 16
"""So many objects are removed at a time."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""Names of objects (RFC 1123)."""

SECRET_PREFIX = "jumpstarter-lab-"
SECRET_LABEL = f"{PREFIX}secret"


class KubernetesStore:
    """Records as custom resources; without transactions.

    Writes of one commit are done in their order, each guarded by the version of its object. A record whose object has
    a status costs one write for what is described in it and one for its status, as far as they have changed.

    Args:
        cluster: is opened and closed here; its namespace is where the server's own secrets and the audit record are.
        namespace: where the records are; empty for all namespaces.
        own_namespace: the records are in the namespace of the connection, whichever it is.
        clock: tells times.
        watch_limit: how many changes may wait for one watcher before it has to start again.
    """

    audit_seconds = 2.0
    """For how long entries of the audit record are gathered before they are written."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str = "",
        *,
        own_namespace: bool = False,
        clock: Clock | None = None,
        watch_limit: int = DEFAULT_LIMIT,
    ) -> None:
        self._cluster = cluster
        self._clock = clock or SystemClock()
        self._hub = Hub(limit=watch_limit)
        self._namespace = namespace
        self._own_namespace = own_namespace
        self._mirrors: dict[Kind, Mirror] = {}
        self._audit = Audit(cluster, self._clock.now)
        self._left: OrderedDict[tuple[str, str], str] = OrderedDict()
        """Where lists of ended leases go on, by namespace and last name."""
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup

    def _places(self) -> list[tuple[Kind, Place]]:
        selectors = {
            Kind.LEASE: f"!{ENDED_LABEL}",
            Kind.ADMIN: f"{KIND_LABEL}={Kind.ADMIN}",
            Kind.ROUTER: f"{KIND_LABEL}={Kind.ROUTER}",
        }
        return [(kind, Place(kind, selectors.get(kind, ""), self._namespace)) for kind in Kind]

    async def __aenter__(self) -> KubernetesStore:
        try:
            await self._stack.enter_async_context(self._cluster)
            if self._own_namespace:
                self._namespace = self._cluster.namespace
            for kind, place in self._places():
                self._mirrors[kind] = Mirror(self._cluster, self._hub, place, heal=self._heal)
            self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
            self._stack.callback(lambda: self._tasks.cancel_scope.cancel())
            for mirror in self._mirrors.values():
                await self._tasks.start(mirror.run)
        except BaseException as error:
            # Not told of the error, which a task group would wrap.
            await self._stack.aclose()
            if isinstance(error, ClusterError):
                raise translated(error) from error
            raise
        return self

    async def __aexit__(self, *args: object) -> None:
        self._hub.close()
        await self._stack.aclose()

    @property
    def cluster(self) -> Cluster:
        """The connection, for what else a lab does in its cluster."""
        return self._cluster

    @property
    def following(self) -> bool:
        """Whether everything that happens in the cluster is told at present."""
        return all(mirror.connected for mirror in self._mirrors.values())

    # -- writing -----------------------------------------------------------------------------------

    async def commit(self, *writes: Write) -> list[Record]:
        """Do the writes in their order, as `Store.commit` has it."""
        done: list[Record] = []
        with anyio.CancelScope(shield=True):
            for write in writes:
                done.append(await self._write(write))
        return done

    async def _write(self, write: Write) -> Record:
        key = write.key if isinstance(write, Delete) else write.record.key
        try:
            # What others are told in between would be half of it.
            with self._mirrors[key.kind].writing(key):
                if isinstance(write, Create):
                    done = await self._create(write.record)
                elif isinstance(write, Update):
                    done = await self._update(write.record)
                else:
                    done = await self._delete(key, write.version)
        except ClusterError as error:
            raise translated(error, key) from error
        return done

    async def _create(self, record: Record) -> Record:
        resource, wanted = RESOURCES[record.key.kind], encode(record)
        status = wanted.pop("status", None) or {}
        made = await self._cluster.create(resource, wanted)
        if any(status.values()):
            try:
                made = await self._patch(record, made["metadata"]["resourceVersion"], {"status": status}, "status")
            except (ClusterConflict, NotFound):
                # Somebody has done something with it at once; what it is now is told by the watch.
                made = await self._cluster.get(resource, object_name(record.key), namespace=record.meta.namespace)
        return self._told(record.key.kind, made)

    async def _update(self, record: Record) -> Record:
        key = record.key
        old = self._hub.get(key)
        if old is None or old.meta.version != record.meta.version:
            # What is known here may be behind, so the cluster is asked.
            old = await self.get(key)
        if old is None:
            raise Missing(key, f"{key} does not exist.")
        if old.meta.version != record.meta.version:
            expected = record.meta.version or "none"
            raise Conflict(key, f"{key} was changed meanwhile (version {old.meta.version}, expected {expected}).")
        stamped = replace(record, meta=replace(record.meta, uid=old.meta.uid, created=old.meta.created))
        patch = difference(encode(old), encode(stamped))
        parts = [("", patch), ("status", {"status": patch.pop("status", {})})]
        if isinstance(record, Lease) and record.ended:
            # The end is written first where it counts, so that nobody sees the label of one that goes on.
            parts.reverse()
        version, made = record.meta.version, None
        for part, changes in parts:
            if any(changes.values()):
                made = await self._patch(record, version, changes, part)
                version = made["metadata"]["resourceVersion"]
        return self._told(key.kind, made) if made is not None else old

    async def _patch(self, record: Record, version: str, changes: Object, part: str) -> Object:
        meta = {**changes.get("metadata", {}), "resourceVersion": version}
        if part and isinstance(record, Lease):
            # The only field of a status that has to be there, also in that of an object that had none.
            changes = {"status": {"ended": record.ended, **changes["status"]}}
        return await self._cluster.patch(
            RESOURCES[record.key.kind],
            object_name(record.key),
            {**changes, "metadata": meta},
            namespace=record.meta.namespace,
            status=part == "status",
        )

    async def _delete(self, key: Key, version: str) -> Record:
        resource, name = RESOURCES[key.kind], object_name(key)
        item = await self._cluster.get(resource, name, namespace=key.namespace)
        record = decode(key.kind, item)
        if version and record.meta.version != version:
            raise Conflict(key, f"{key} was changed meanwhile (version {record.meta.version}, expected {version}).")
        await self._cluster.delete(
            resource,
            name,
            namespace=key.namespace,
            uid=item["metadata"]["uid"],
            version=record.meta.version,
            # Leases and their history outlive the exporter that they were of.
            propagation="Background",
        )
        self._mirrors[key.kind].removed(record, item["metadata"]["uid"])
        return record

    def _told(self, kind: Kind, item: Object) -> Record:
        record = decode(kind, item)
        self._mirrors[kind].wrote(record)
        return record

    def _heal(self, record: Record) -> None:
        """Label a lease that ended when its server went down before it did that."""
        if isinstance(record, Lease) and record.ended and ENDED_LABEL not in record.meta.labels:
            self._tasks.start_soon(self._label, record)

    async def _label(self, lease: Lease) -> None:
        patch = {"metadata": {"labels": {ENDED_LABEL: "true"}}}
        try:
            await self._cluster.patch(LEASES, lease.meta.name, patch, namespace=lease.meta.namespace)
        except ClusterError as error:
            logger.info("%s can't be marked as ended for now: %s", lease.key, error)

    # -- reading -----------------------------------------------------------------------------------

    def watch(self, *kinds: Kind) -> AbstractAsyncContextManager[ObjectReceiveStream[Event]]:
        """Tell of everything there is and of every change, as `Store.watch` has it."""
        return self._hub.watch(*kinds)

    async def get(self, key: Key) -> Record | None:
        """Return a record, ended leases included."""
        if not NAME.fullmatch(key.name) or not NAME.fullmatch(key.namespace):
            # No object can have such a name, and it may come from anybody.
            return None
        try:
            item = await self._cluster.get(RESOURCES[key.kind], object_name(key), namespace=key.namespace)
        except NotFound:
            return None
        except ClusterError as error:
            raise translated(error) from error
        return decode(key.kind, item)

    async def ended_leases(
        self, namespace: str, *, limit: int = 0, after: str = "", newest_first: bool = False
    ) -> Sequence[Record]:
        """Return leases that have ended, as `Store.ended_leases` has it.

        The cluster lists them by name only forward: the newest first means to go through all of them.
        """
        found: list[Record] = []
        try:
            async for record, more in self._ended(namespace, "" if newest_first else after, limit or PAGE):
                name = record.meta.name
                if newest_first:
                    if after and name >= after:
                        break
                    found.append(record)
                    if limit and len(found) > limit:
                        found.pop(0)
                    continue
                found.append(record)
                if limit and len(found) == limit:
                    self._remember(namespace, name, more)
                    break
        except ClusterError as error:
            raise translated(error) from error
        return found[::-1] if newest_first else found

    async def _ended(self, namespace: str, after: str, size: int) -> AsyncIterator[tuple[Record, str]]:
        """Iterate over ended leases by name; with each comes where the list goes on when it is the last of a page."""
        more = self._left.pop((namespace, after), "") if after else ""
        while True:
            try:
                page = await self._cluster.list(
                    LEASES, namespace=namespace, labels=ENDED_LABEL, limit=min(size, PAGE), more=more
                )
            except Gone:
                if not more:
                    raise
                more = ""
                continue
            for number, item in enumerate(page.items, 1):
                record = decode(Kind.LEASE, item)
                if record.meta.name > after:
                    yield record, page.more if number == len(page.items) else ""
            more = page.more
            if not more:
                return

    def _remember(self, namespace: str, name: str, more: str) -> None:
        if more:
            self._left[namespace, name] = more
            if len(self._left) > PLACES_KEPT:
                self._left.popitem(last=False)

    # -- collecting --------------------------------------------------------------------------------

    async def collect(self, kind: Kind, before: datetime) -> int:
        """Remove leases that ended before a time; return how many."""
        if kind is not Kind.LEASE:
            raise ValueError(f"only leases are collected, not {kind}")
        count = 0
        more = ""
        try:
            while True:
                page = await self._cluster.list(
                    LEASES,
                    namespace=self._namespace or None,
                    all_namespaces=not self._namespace,
                    labels=ENDED_LABEL,
                    limit=PAGE,
                    more=more,
                )
                count += await self._remove_old([decode(Kind.LEASE, item) for item in page.items], before)
                more = page.more
                if not more:
                    return count
        except ClusterError as error:
            raise translated(error) from error

    async def _remove_old(self, records: Sequence[Record], before: datetime) -> int:
        old = [
            record
            for record in records
            if isinstance(record, Lease) and record.ended and record.ended_at is not None and record.ended_at < before
        ]
        count = 0

        async def remove(lease: Lease) -> None:
            nonlocal count
            try:
                await self._cluster.delete(LEASES, lease.meta.name, namespace=lease.meta.namespace)
            except NotFound:
                return
            count += 1

        for start in range(0, len(old), AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for lease in old[start : start + AT_ONCE]:
                    tasks.start_soon(remove, lease)
        return count

    # -- audit -------------------------------------------------------------------------------------

    async def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries to the audit record."""
        if not entries:
            return
        try:
            await self._audit.record(entries)
        except ClusterError as error:
            raise translated(error) from error

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

        def wanted(entry: AuditEntry) -> bool:
            named: Mapping[str, Any] = {"namespace": namespace, "client": client, "exporter": exporter, "lease": lease}
            if any(value and getattr(entry, name) != value for name, value in named.items()):
                return False
            return not action or entry.action == action or (action.endswith(".") and entry.action.startswith(action))

        try:
            return await self._audit.read(
                since=since, until=until, limit=limit, after=after, newest_first=newest_first, wanted=wanted
            )
        except ClusterError as error:
            raise translated(error) from error

    async def collect_audit(self, *, before: datetime | None = None, keep: int = 0) -> int:
        """Remove the oldest entries, those before a time and all but `keep`; return how many."""
        try:
            return await self._audit.collect(before=before, keep=keep)
        except ClusterError as error:
            raise translated(error) from error

    # -- secrets -----------------------------------------------------------------------------------

    async def secrets(self) -> Mapping[str, bytes]:
        """Return the secrets of the server, by name."""
        try:
            page = await self._cluster.list(SECRETS, labels=f"{SECRET_LABEL}=true")
        except ClusterError as error:
            raise translated(error) from error
        return {
            item["metadata"]["annotations"][SECRET_LABEL]: base64.b64decode(item["data"]["key"]) for item in page.items
        }

    async def put_secret(self, name: str, value: bytes, *, replace: bool = False) -> bytes:
        """Keep a secret and return it; without `replace` one that is there already wins and is returned."""
        body = {
            "metadata": {
                "name": SECRET_PREFIX + name,
                "labels": {SECRET_LABEL: "true"},
                "annotations": {SECRET_LABEL: name},
            },
            "data": {"key": base64.b64encode(value).decode()},
        }
        try:
            try:
                await self._cluster.create(SECRETS, body)
                return bytes(value)
            except AlreadyExists:
                if replace:
                    await self._cluster.replace(SECRETS, body)
                    return bytes(value)
                kept = await self._cluster.get(SECRETS, SECRET_PREFIX + name)
                return base64.b64decode(kept["data"]["key"])
        except ClusterError as error:
            raise translated(error) from error
