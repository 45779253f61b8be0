"""What exporters tell of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..asks import Actor
from ..errors import Code, Refused
from ..model import lease as life
from ..model.names import check_labels
from ..model.records import OWN_LABEL_PREFIX, Device, Exporter, ExporterStatus, Key, Kind, Lease
from ..store.base import Update, Write
from .core import Core
from .ending import ending, exporters_lease, note_end
from .presence import Presence
from .use import Uses

MAXIMUM_DEVICES = 10_000
MAXIMUM_LABELS = 256
MAXIMUM_MESSAGE = 4096
"""Characters of a status message that are kept."""

_OFFLINE = (ExporterStatus.OFFLINE, ExporterStatus.UNSPECIFIED)


class Exporting:
    """Takes note of exporters."""

    def __init__(self, core: Core, presence: Presence, uses: Uses) -> None:
        self._core = core
        self._presence = presence
        self._uses = uses

    def _exporter(self, actor: Actor) -> Exporter:
        exporter = self._core.world.exporter(actor.key) if actor.key is not None else None
        if exporter is None:
            raise Refused(
                Code.NOT_FOUND, "NOT_FOUND", f"{actor.key or actor.kind} is no exporter of this lab, or was deleted"
            )
        return exporter

    async def register(self, actor: Actor, labels: Mapping[str, str], devices: Iterable[Device]) -> Exporter:
        """Take note of what an exporter offers."""
        own = {key: value for key, value in labels.items() if key.startswith(OWN_LABEL_PREFIX)}
        listed = tuple(devices)
        if len(listed) > MAXIMUM_DEVICES or len(own) > MAXIMUM_LABELS:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "TOO_MUCH",
                f"{actor.key} offers {len(listed)} drivers and {len(own)} labels, more than the {MAXIMUM_DEVICES} and "
                f"{MAXIMUM_LABELS} that an exporter can have",
            )
        check_labels(own, f"exporter {actor.key.name if actor.key else ''}")

        def build() -> Sequence[Write]:
            exporter = self._exporter(actor)
            kept = {key: value for key, value in exporter.meta.labels.items() if not key.startswith(OWN_LABEL_PREFIX)}
            changed = replace(
                exporter, meta=replace(exporter.meta, labels={**kept, **own}), devices=listed, draining=False
            )
            if exporter.status is ExporterStatus.OFFLINE:
                # It said good-bye, and is back. Exporters of old never say more than that.
                changed = replace(changed, status=None, status_message="")
            return (Update(changed),) if changed != exporter else ()

        await self._core.ledger.transact(build)
        exporter = self._exporter(actor)
        self._presence.update(exporter.key)
        self._core.audit(actor, "exporter.register", exporter=exporter.meta.name, devices=len(listed))
        return exporter

    async def unregister(self, actor: Actor, reason: str) -> None:
        """Take an exporter's devices out; it is offline."""

        def build() -> Sequence[Write]:
            exporter = self._exporter(actor)
            changed = replace(
                exporter,
                devices=(),
                online=False,
                last_seen=self._core.now(),
                status=ExporterStatus.OFFLINE,
                status_message=reason[:MAXIMUM_MESSAGE] or "the exporter signed off",
            )
            return (Update(changed),)

        await self._core.ledger.transact(build)
        exporter = self._exporter(actor)
        self._core.audit(
            actor, "exporter.offline", exporter=exporter.meta.name, lease=exporter.lease, reason=exporter.status_message
        )

    async def report(self, actor: Actor, status: ExporterStatus, message: str, release: bool) -> None:
        """Take note of an exporter's status; with `release` its lease ends in the same commit."""
        ended: list[Lease] = []
        came: list[Exporter] = []

        def build() -> Sequence[Write]:
            ended.clear()
            came.clear()
            exporter = self._exporter(actor)
            online = status not in _OFFLINE
            text = message[:MAXIMUM_MESSAGE]
            changed = exporter
            if (exporter.status, exporter.status_message, exporter.online) != (status, text, online):
                changed = replace(
                    exporter, status=status, status_message=text, online=online, last_seen=self._core.now()
                )
                if online != exporter.online:
                    came.append(changed)
            lease = exporters_lease(self._core, exporter) if release else None
            if lease is None:
                return (Update(changed),) if changed is not exporter else ()
            ended.append(life.end(lease, "Released", "released by its exporter", self._core.now()))
            _, *rest = ending(self._core, lease, ended[0])
            return (Update(life.free(changed, self._core.now())), *rest)

        await self._core.ledger.transact(build)
        exporter = self._exporter(actor)
        self._presence.heard(exporter.key)
        for item in came:
            self._core.audit(
                actor,
                "exporter.online" if item.online else "exporter.offline",
                exporter=item.meta.name,
                lease=item.lease,
                reason=message[:MAXIMUM_MESSAGE] or f"it reported {status.value}",
            )
        for lease in ended:
            note_end(self._core, actor, lease, "Released", "released by its exporter")

    async def drain(self, actor: Actor, draining: bool, reason: str) -> None:
        """Give an exporter no further lease, or leases again."""

        def build() -> Sequence[Write]:
            exporter = self._exporter(actor)
            return (Update(replace(exporter, draining=draining)),) if exporter.draining != draining else ()

        if await self._core.ledger.transact(build):
            name = actor.key.name if actor.key is not None else ""
            self._core.audit(actor, "exporter.drain", exporter=name, draining=draining, reason=reason[:MAXIMUM_MESSAGE])

    def used(self, actor: Actor, key: Key) -> None:
        """Take note that a lease is used."""
        lease = self._core.world.lease(key)
        if lease is None or not lease.exporter:
            return
        if actor.kind == "exporter" and actor.key != Key(Kind.EXPORTER, key.namespace, lease.exporter):
            raise Refused(
                Code.FAILED_PRECONDITION,
                "NOT_HELD",
                f"lease {key.name} is not held by {actor.key}, which says that it is used",
            )
        self._uses.used(lease)
        if self._core.neighbours is not None and not self._core.leading and lease.idle_timeout is not None:
            self._core.neighbours.tell_used(key)
