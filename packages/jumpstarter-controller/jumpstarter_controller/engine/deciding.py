"""Decides: gives exporters to waiting leases, ends what is over, and mends what does not fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio

from ..model import lease as life
from ..model.policy import span
from ..model.records import ENDED_LABEL, Account, Exporter, Key, Kind, Lease, Record
from ..model.verdict import Verdict
from ..scheduler import Assignment
from ..store.base import Conflict, Update, Write
from .core import SERVER, Core
from .ending import end_lease, ending, note_end
from .presence import Presence
from .use import Uses
from .waiting import Waits

_MEND_AFTER = timedelta(seconds=5)
"""Records of stores without transactions may disagree for a moment."""

_LONGEST_SLEEP = 60.0
"""Seconds after which the time is looked at again: while a machine sleeps it passes faster than a sleep in it."""

_AT_ONCE = datetime.min.replace(tzinfo=UTC)
"""Before any time that anything is compared with."""

Fate = tuple[datetime, str, str]
"""When something is to be done about a lease; reason and message of its end, empty when it only has its turn."""


class Decider:
    """Acts on the world as time passes and as it changes."""

    def __init__(self, core: Core, uses: Uses, waits: Waits, presence: Presence) -> None:
        self._core = core
        self._uses = uses
        self._waits = waits
        self._presence = presence
        self._alarm_at: datetime | None = None
        self._alarm_scope: anyio.CancelScope | None = None
        self._alarm_set = anyio.Event()
        core.listeners.append(self._changed)

    # -- being told --------------------------------------------------------------------------------

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        match record:
            case Lease():
                self._lease_changed(record, new)
            case Exporter():
                self._exporter_changed(old, new)  # type: ignore[arg-type]
            case Account(kind=Kind.CLIENT):
                if new is None:
                    for lease in self._core.world.leases_of(record.key):
                        self._set(lease)
            case _:
                pass

    def _exporter_changed(self, old: Exporter | None, new: Exporter | None) -> None:
        for item in (old, new):
            if item is None or not item.lease:
                continue
            lease = self._core.world.lease(Key(Kind.LEASE, item.meta.namespace, item.lease))
            has_it = lease is not None and lease.exporter == item.meta.name
            if item is new and not has_it:
                self._mend_later(new.key)
            elif lease is not None and has_it and (new is None or new.lease != item.lease):
                self._mend_later(lease.key)

    def _lease_changed(self, record: Lease, new: Record | None) -> None:
        exporter = self._core.world.exporter(Key(Kind.EXPORTER, record.meta.namespace, record.exporter))
        if not isinstance(new, Lease) or new.ended:
            self._core.timers.set(("lease", record.key), None)
            self._core.timers.set(("mark", record.key), None)
            self._core.timers.set(("mend", record.key), None)
            if exporter is not None and exporter.lease == record.meta.name:
                self._mend_later(exporter.key)
            if isinstance(new, Lease) and ENDED_LABEL not in new.meta.labels:
                self._core.chores.add(("label", new.key), partial(self._label, new))
            return
        if new.exporter and (exporter is None or exporter.lease != new.meta.name):
            self._mend_later(new.key)
        self._set(new)

    def _mend_later(self, key: Key) -> None:
        if self._core.loaded:
            self._core.set_timer("mend", key, self._core.now() + _MEND_AFTER)

    def _set(self, lease: Lease) -> None:
        self._core.set_timer("lease", lease.key, self._fate(lease)[0])

    def _fate(self, lease: Lease) -> Fate:
        """Return what is to come first."""
        now = self._core.now()
        if lease.release:
            return _AT_ONCE, "Released", "its release was asked for"
        if self._core.loaded and not self._owner_exists(lease):
            return _AT_ONCE, "Released", f"its owner {lease.client} was deleted"
        fates: list[Fate] = []
        end = self._uses.expiry(lease)
        if lease.exporter:
            length = span(end - lease.begun) if end is not None and lease.begun is not None else "its time"
            fates.append((end or now, "Expired", f"its time of {length} is over"))
            idle = self._uses.idle_until(lease.key)
            if idle is not None and lease.idle_timeout is not None:
                fates.append((idle, "Expired", f"it was not used for {span(lease.idle_timeout)}"))
            if (deadline := self._waits.deadline(lease)) is not None:
                fates.append((deadline[0], "Released", deadline[1]))
        else:
            if end is not None:
                fates.append((end, "Expired", "the time that was asked for passed before it had an exporter"))
            if lease.begin_time is not None and lease.begin_time > now:
                fates.append((lease.begin_time, "", ""))
            elif (deadline := self._waits.deadline(lease)) is not None:
                fates.append((deadline[0], "Released", deadline[1]))
        return min(fates, default=(datetime.max.replace(tzinfo=now.tzinfo), "", ""))

    def _owner_exists(self, lease: Lease) -> bool:
        return self._core.world.accounts(Kind.CLIENT, lease.meta.namespace).get(lease.client) is not None

    # -- deciding ----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Mend what does not fit together and end what is over; to be called when everything has been told."""
        world = self._core.world
        if self._core.leading:
            # Nobody is declared offline by a server that starts before it had the time to connect again.
            self._presence.expect_all()
            for namespace in world.namespaces(Kind.EXPORTER):
                for exporter in world.exporters(namespace):
                    if exporter.lease:
                        self._mend(exporter.key)
            for namespace in world.namespaces(Kind.LEASE):
                for lease in world.leases(namespace):
                    if lease.exporter:
                        self._mend(lease.key)
        for namespace in world.namespaces(Kind.LEASE):
            for lease in world.leases(namespace):
                self._set(lease)
        self.look()

    async def run(self) -> None:
        """Decide until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._alarm)
            while True:
                self.look()
                await self._core.awaken()

    def look(self) -> None:
        """Decide what can be decided now."""
        core, now = self._core, self._core.now()
        for what, key in core.timers.due(now):
            self._due(what, key, now)
        soonest = core.timers.next()
        if core.leading and core.loaded:
            hopeless, look_again = core.scheduler.hopeless(now)
            for key, verdict in hopeless:
                core.chores.add(("end", key), partial(self._refuse, key, verdict))
            soonest = min((moment for moment in (soonest, look_again) if moment is not None), default=None)
            if not core.chores.paused:
                for assignment in core.scheduler.decide(core.chores.room):
                    core.chores.add(("assign", assignment.lease), partial(self._assign, assignment), again=False)
        if soonest is not None and (self._alarm_at is None or soonest < self._alarm_at):
            self._alarm_at = soonest
            self._alarm_set.set()
            if self._alarm_scope is not None:
                self._alarm_scope.cancel()

    async def _alarm(self) -> None:
        while True:
            if self._alarm_at is None:
                self._alarm_set = anyio.Event()
                await self._alarm_set.wait()
                continue
            moment = self._alarm_at
            with anyio.CancelScope() as self._alarm_scope:
                await self._core.clock.sleep(min(_LONGEST_SLEEP, (moment - self._core.now()).total_seconds()))
            self._alarm_scope = None
            if self._alarm_at == moment:
                self._alarm_at = None
                self._core.wake()

    def _due(self, what: str, key: Key, now: datetime) -> None:
        match what:
            case "exporter":
                self._presence.update(key)
            case "mark":
                self._waits.look(key)
            case "mend":
                if self._core.leading:
                    self._mend(key)
            case _:
                lease = self._core.world.lease(key)
                if lease is None:
                    return
                moment, reason, _ = self._fate(lease)
                if moment > now:
                    if lease.begin_time is not None and not lease.exporter:
                        self._core.scheduler.began_waiting(key, now)
                    self._core.timers.set((what, key), moment)
                elif not reason:
                    self._core.timers.set((what, key), now + timedelta(milliseconds=1))
                elif self._core.leading:
                    self._core.chores.add(("end", key), partial(self._end, key))

    async def _end(self, key: Key) -> None:
        def judge(lease: Lease) -> tuple[str, str] | None:
            moment, reason, message = self._fate(lease)
            if moment > self._core.now() or not reason:
                self._set(lease)
                return None
            return reason, message

        await end_lease(self._core, SERVER, key, judge)

    async def _refuse(self, key: Key, verdict: Verdict) -> None:
        refused: list[Lease] = []

        def build() -> Sequence[Write]:
            refused.clear()
            lease = self._core.world.lease(key)
            if lease is None or lease.exporter or not self._core.scheduler.verdict(lease, self._core.now()).final:
                return ()
            refused.append(life.refuse(lease, verdict.kind, verdict.reason, verdict.message, self._core.now()))
            return ending(self._core, lease, refused[0])

        await self._core.ledger.transact(build)
        for lease in refused:
            note_end(self._core, SERVER, lease, verdict.reason, verdict.message)

    async def _assign(self, assignment: Assignment) -> None:
        core = self._core
        try:
            lease = core.world.lease(assignment.lease)
            exporter = core.world.exporter(assignment.exporter)
            if lease is None or exporter is None or not fits(lease, exporter, core.now()):
                return
            now = core.now()
            begun = life.begin(lease, exporter.meta.name, assignment.approval, now)
            writes = (Update(life.hold(exporter, lease.meta.name, now)), Update(begun))
            try:
                await core.ledger.commit(*writes)
            except Conflict as conflict:
                await core.ledger.moved(conflict, writes)
                return
            note_assignment(core, begun)
        finally:
            core.scheduler.settle(assignment, core.now())
            core.wake()

    # -- mending -----------------------------------------------------------------------------------

    def _mend(self, key: Key) -> None:
        job = self._mend_exporter if key.kind is Kind.EXPORTER else self._mend_lease
        self._core.chores.add(("mend", key), partial(job, key))

    async def _mend_exporter(self, key: Key) -> None:
        """Free an exporter whose lease does not have it: the lease ended, or it was not given it to the end."""

        def build() -> Sequence[Write]:
            exporter = self._core.world.exporter(key)
            if exporter is None or not exporter.lease:
                return ()
            lease = self._core.world.lease(Key(Kind.LEASE, key.namespace, exporter.lease))
            if lease is not None and lease.exporter == key.name:
                return ()
            return (Update(life.free(exporter, self._core.now())),)

        await self._core.ledger.transact(build)

    async def _mend_lease(self, key: Key) -> None:
        """End a lease whose exporter is not held by it: the end was begun, or the exporter was deleted."""

        def judge(lease: Lease) -> tuple[str, str] | None:
            exporter = self._core.world.exporter(Key(Kind.EXPORTER, key.namespace, lease.exporter))
            if not lease.exporter or (exporter is not None and exporter.lease == key.name):
                return None
            text = "was deleted" if exporter is None else "was given back"
            return "Released", f"its exporter {lease.exporter} {text}"

        await end_lease(self._core, SERVER, key, judge)

    async def _label(self, lease: Lease) -> None:
        labels = {**lease.meta.labels, ENDED_LABEL: "true"}
        try:
            await self._core.ledger.commit(Update(replace(lease, meta=replace(lease.meta, labels=labels))))
        except Conflict:
            return


def fits(lease: Lease, exporter: Exporter, now: datetime) -> bool:
    """Return whether a pending lease can be given an exporter that was chosen for it."""
    return (
        life.state(lease, now) is life.State.PENDING
        and exporter.registered
        and exporter.online
        and exporter.ready
        and not exporter.draining
        and not exporter.lease
        and (exporter.enabled or lease.allow_disabled)
    )


def note_assignment(core: Core, lease: Lease) -> None:
    """Note in the audit record that a lease has an exporter."""
    since = max(lease.meta.created or core.now(), lease.begin_time or datetime.min.replace(tzinfo=core.now().tzinfo))
    core.audit(
        SERVER,
        "lease.assign",
        lease.meta.namespace,
        client=lease.client,
        exporter=lease.exporter,
        lease=lease.meta.name,
        policy=lease.policy,
        priority=lease.priority,
        waited_seconds=round((lease.begun - since).total_seconds(), 3) if lease.begun else None,
    )
