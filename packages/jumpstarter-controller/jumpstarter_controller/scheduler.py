"""Who gets which exporter: groups waiting leases by what they ask for, and matches their heads with free exporters.

Pure and incremental: it is told what changed, is asked for decisions, and never scans all leases. In one group all
leases may have the same exporters on the same terms, so that only its oldest one competes; between groups the priority
on which an exporter would be had decides, then age. Of equal exporters the one that was idle for longest is given.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from .groups import Assignment, Group, GroupKey, Rank, Standing, asks, may_have
from .model.lease import State, requested_length, state
from .model.policy import UNRESTRICTED, Admission, Approval, admit
from .model.records import Exporter, Key, Kind, Lease, Policy, Record
from .model.verdict import Verdict, hopeless_verdict, waiting_verdict
from .world import World

IDLE_GROUPS = 256
"""Groups that are kept although nobody waits in them, to have their exporters at hand for the next one."""

PATIENCE = timedelta(seconds=10)
"""For how long leases that waited go on waiting when no exporter fits any more: rules and labels change in steps."""

_EPOCH = datetime.fromtimestamp(0, UTC)


class Scheduler:
    """Keeps the queue of a world. `changed` has to be called after each change of a record in the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._groups: dict[GroupKey, Group] = {}
        self._idle: OrderedDict[GroupKey, None] = OrderedDict()
        self._group_of: dict[Key, tuple[Group, Rank]] = {}
        self._groups_with: dict[Key, set[Group]] = {}
        self._standing: dict[Key, Standing] = {}
        self._matchable: set[Group] = set()
        self._hopeless: set[Group] = set()
        self._in_flight: dict[Key, Key] = {}
        self._reserved: set[Key] = set()
        self._structure = 0

    # -- being told --------------------------------------------------------------------------------

    def changed(self, old: Record | None, new: Record | None, now: datetime) -> None:
        """Take note that a record was added, changed or removed."""
        record = new or old
        match record:
            case Exporter():
                self._exporter_changed(old, new, now)  # type: ignore[arg-type]
            case Lease():
                self._lease_changed(old, new, now)  # type: ignore[arg-type]
            case Policy():
                self._policy_changed(record.meta.namespace, now)
            case None:
                pass
            case _:
                if record.kind is Kind.CLIENT and (old is None or new is None or old.meta.labels != new.meta.labels):
                    self._reclassify(self._world.leases_of(record.key), now)

    def began_waiting(self, key: Key, now: datetime) -> None:
        """Take note that the time has come at which a scheduled lease should begin."""
        lease = self._world.lease(key)
        if lease is not None:
            self._enqueue(lease, now)

    def _exporter_changed(self, old: Exporter | None, new: Exporter | None, now: datetime) -> None:
        key = (new or old).key  # type: ignore[union-attr]
        if old is None or new is None or old.meta.labels != new.meta.labels or old.enabled != new.enabled:
            for group in [group for group in self._groups.values() if group.namespace == key.namespace]:
                self._reconsider(group, key, new, now)
        if new is None:
            self._standing.pop(key, None)
            self._groups_with.pop(key, None)
            return
        self._stand(key, new)
        if old is not None and old.freed != new.freed and self._standing[key] is Standing.FREE:
            for group in self._groups_with.get(key, ()):
                self._offer(group, new)

    def _reconsider(self, group: Group, key: Key, exporter: Exporter | None, now: datetime) -> None:
        """Let one exporter join or leave a group."""
        approval = may_have(group, exporter) if exporter is not None else None
        former = group.members.get(key.name)
        if approval == former:
            return
        self._structure += 1
        group.revision += 1
        if former is not None:
            del group.members[key.name]
            group.counts[self._standing[key]] -= 1
            self._groups_with[key].discard(group)
        if approval is not None and exporter is not None:
            self._join(group, key, exporter, approval)
        self._note_hope(group, now)

    def _join(self, group: Group, key: Key, exporter: Exporter, approval: Approval) -> None:
        standing = self._standing.get(key)
        if standing is None:
            standing = self._standing[key] = self._judge(key, exporter)
        group.members[key.name] = approval
        group.counts[standing] += 1
        self._groups_with.setdefault(key, set()).add(group)
        if standing is Standing.FREE:
            self._offer(group, exporter)

    def _judge(self, key: Key, exporter: Exporter) -> Standing:
        if not (exporter.registered and exporter.online):
            return Standing.OFFLINE
        if exporter.lease or key in self._reserved:
            return Standing.LEASED
        return Standing.FREE if exporter.ready and not exporter.draining else Standing.NOT_READY

    def _stand(self, key: Key, exporter: Exporter) -> None:
        new = self._judge(key, exporter)
        old = self._standing.get(key)
        self._standing[key] = new
        if old == new:
            return
        for group in self._groups_with.get(key, ()):
            if old is not None:
                group.counts[old] -= 1
            group.counts[new] += 1
            group.revision += 1
            if new is Standing.FREE:
                self._offer(group, exporter)
            elif group.counts[Standing.FREE] == 0:
                self._matchable.discard(group)

    def _offer(self, group: Group, exporter: Exporter) -> None:
        priority = group.members[exporter.meta.name].rule.priority
        if len(group.heap) > 4 * len(group.members) + 64:
            group.heap = [entry for entry in group.heap if self._is_current(group, entry)]
            heapq.heapify(group.heap)
        heapq.heappush(group.heap, (-priority, exporter.freed or _EPOCH, exporter.meta.name))
        if group.waiting:
            self._matchable.add(group)

    def _is_current(self, group: Group, entry: tuple[int, datetime, str]) -> bool:
        priority, freed, name = entry
        key = Key(Kind.EXPORTER, group.namespace, name)
        approval = group.members.get(name)
        exporter = self._world.exporter(key)
        return (
            approval is not None
            and exporter is not None
            and approval.rule.priority == -priority
            and (exporter.freed or _EPOCH) == freed
            and self._standing.get(key) is Standing.FREE
        )

    # -- leases ------------------------------------------------------------------------------------

    def _lease_changed(self, old: Lease | None, new: Lease | None, now: datetime) -> None:
        key = (new or old).key  # type: ignore[union-attr]
        if new is not None and not new.ended and state(new, now) is State.PENDING:
            if old is None or key not in self._group_of or asks(old) != asks(new):
                self._enqueue(new, now)
        else:
            self._dequeue(key)
        # What a client has, or gave back, by a rule may change what else it may have by the same one.
        before, after = (
            (lease.client, lease.policy) if lease is not None and not lease.ended else ("", "") for lease in (old, new)
        )
        if before != after:
            for client, policy in (before, after):
                if policy:
                    self._reclassify(self._world.leases_of(Key(Kind.CLIENT, key.namespace, client)), now)

    def _reclassify(self, leases: Iterable[Lease], now: datetime) -> None:
        for lease in leases:
            if lease.key in self._group_of:
                self._enqueue(lease, now)

    def _policy_changed(self, namespace: str, now: datetime) -> None:
        leases = [self._world.lease(key) for key in self._group_of if key.namespace == namespace]
        for group in [group for group in self._groups.values() if group.namespace == namespace]:
            self._forget(group)
        for lease in leases:
            if lease is not None:
                self._group_of.pop(lease.key, None)
                self._enqueue(lease, now)

    def _enqueue(self, lease: Lease, now: datetime) -> None:
        key = lease.key
        if key in self._in_flight:
            return
        group = self.group_for(lease, now)
        rank = (lease.meta.created or now, lease.meta.name)
        entry = self._group_of.get(key)
        if entry == (group, rank):
            return
        self._dequeue(key)
        insort(group.waiting, rank)
        group.revision += 1
        self._idle.pop(group.key, None)
        self._group_of[key] = (group, rank)
        self._note_hope(group, now)
        if group.counts[Standing.FREE]:
            self._matchable.add(group)

    def _dequeue(self, key: Key) -> None:
        entry = self._group_of.pop(key, None)
        if entry is None:
            return
        group, rank = entry
        index = bisect_left(group.waiting, rank)
        if index < len(group.waiting) and group.waiting[index] == rank:
            del group.waiting[index]
            group.revision += 1
        if not group.waiting:
            self._matchable.discard(group)
            self._note_hope(group, None)
            if self._groups.get(group.key) is group:
                self._rest(group)

    def _rest(self, group: Group) -> None:
        self._idle[group.key] = None
        while len(self._idle) > IDLE_GROUPS:
            key, _ = self._idle.popitem(last=False)
            self._forget(self._groups[key])

    def _forget(self, group: Group) -> None:
        self._structure += 1
        del self._groups[group.key]
        self._idle.pop(group.key, None)
        self._matchable.discard(group)
        self._hopeless.discard(group)
        for name in group.members:
            self._groups_with[Key(Kind.EXPORTER, group.namespace, name)].discard(group)

    def admission(self, lease: Lease) -> Admission:
        """Return what the policies say of the owner of a lease, or of a lease that is asked for."""
        policies = self._world.policies(lease.meta.namespace)
        if not len(policies):
            return Admission((UNRESTRICTED,))
        owner = Key(Kind.CLIENT, lease.meta.namespace, lease.client)
        rank = (lease.meta.created, lease.meta.name)
        is_new = self._world.lease(lease.key) is None

        def held(name: str) -> int:
            return sum(
                other.policy == name and (is_new or (other.meta.created, other.meta.name) < rank)
                for other in self._world.leases_of(owner)
                if other.meta.name != lease.meta.name
            )

        labels = self._world.client_labels(lease.meta.namespace, lease.client)
        return admit(policies, labels, requested_length(lease), held)

    def group_for(self, lease: Lease, now: datetime) -> Group:
        """Return the group to which a lease belongs, or would belong."""
        admission = self.admission(lease)
        key = (
            lease.meta.namespace,
            str(lease.selector),
            lease.exporter_name,
            lease.allow_disabled,
            admission.identity,
        )
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, lease.selector, admission)
            self._structure += 1
            for exporter in self._candidates(group):
                approval = may_have(group, exporter)
                if approval is not None:
                    self._join(group, exporter.key, exporter, approval)
            self._rest(group)
        return group

    def _candidates(self, group: Group) -> Iterable[Exporter]:
        exporters = self._world.exporters(group.namespace)
        if not group.pinned:
            return exporters
        exporter = exporters.get(group.pinned)
        return () if exporter is None else (exporter,)

    # -- deciding ----------------------------------------------------------------------------------

    def decide(self, limit: int = 1 << 30) -> list[Assignment]:
        """Return who gets what now, at most so many; each is in flight until `settle` is called."""
        decided: list[Assignment] = []
        while self._matchable and len(decided) < limit:
            best: tuple[int, Rank] | None = None
            winner: Group | None = None
            for group in list(self._matchable):
                top = self._top(group)
                if top is None or not group.waiting:
                    self._matchable.discard(group)
                    continue
                candidate = (top[0], group.waiting[0])
                if best is None or candidate < best:
                    best, winner = candidate, group
            if winner is None:
                break
            top = self._top(winner)
            assert top is not None
            lease = Key(Kind.LEASE, winner.namespace, winner.waiting[0][1])
            exporter = Key(Kind.EXPORTER, winner.namespace, top[2])
            decided.append(self.reserve(lease, exporter, winner.members[top[2]]))
        return decided

    def _top(self, group: Group) -> tuple[int, datetime, str] | None:
        while group.heap:
            if self._is_current(group, group.heap[0]):
                return group.heap[0]
            heapq.heappop(group.heap)
        return None

    def offer(self, lease: Lease, now: datetime) -> Assignment | None:
        """Return what a lease that is asked for can have at once, past nobody who waits; it is in flight then."""
        if self._matchable:
            return None
        group = self.group_for(lease, now)
        top = self._top(group)
        if top is None or group.waiting:
            return None
        return self.reserve(lease.key, Key(Kind.EXPORTER, group.namespace, top[2]), group.members[top[2]])

    def reserve(self, lease: Key, exporter: Key, approval: Approval) -> Assignment:
        """Take a lease and an exporter out of the queue until `settle`."""
        self._dequeue(lease)
        self._in_flight[lease] = exporter
        self._reserved.add(exporter)
        record = self._world.exporter(exporter)
        if record is not None:
            self._stand(exporter, record)
        return Assignment(lease, exporter, approval)

    def settle(self, assignment: Assignment, now: datetime) -> None:
        """Take note that a decision was carried out, or that it could not be: what the world says counts again."""
        self._in_flight.pop(assignment.lease, None)
        self._reserved.discard(assignment.exporter)
        exporter = self._world.exporter(assignment.exporter)
        if exporter is not None:
            self._stand(assignment.exporter, exporter)
        lease = self._world.lease(assignment.lease)
        if lease is not None and state(lease, now) is State.PENDING:
            self._enqueue(lease, now)

    @property
    def undecided(self) -> bool:
        """Whether somebody could be given something right now."""
        return bool(self._matchable)

    # -- telling -----------------------------------------------------------------------------------

    def verdict(self, lease: Lease, now: datetime) -> Verdict:
        """Return why a lease waits, or why it never can be had."""
        entry = self._group_of.get(lease.key)
        return self._verdict(entry[0] if entry is not None else self.group_for(lease, now))

    def _verdict(self, group: Group) -> Verdict:
        if not group.members:
            return hopeless_verdict(
                group.selector,
                group.pinned,
                group.allow_disabled,
                list(self._candidates(group)),
                group.admission,
            )
        offline, leased, _, free = group.counts
        return waiting_verdict(next(iter(group.members)), len(group.members), offline, leased, free)

    def _note_hope(self, group: Group, now: datetime | None) -> None:
        if group.members or not group.waiting:
            group.hopeless_since = None
            self._hopeless.discard(group)
        elif group.hopeless_since is None:
            group.hopeless_since = now
            self._hopeless.add(group)

    def hopeless(self, now: datetime) -> tuple[list[tuple[Key, Verdict]], datetime | None]:
        """Return leases that no exporter fits any more, with the verdict, and when to ask again."""
        found: list[tuple[Key, Verdict]] = []
        soonest: datetime | None = None
        for group in self._hopeless:
            if group.hopeless_since is None:
                continue
            due = group.hopeless_since + PATIENCE
            if due <= now:
                verdict = self._verdict(group)
                found += [(Key(Kind.LEASE, group.namespace, name), verdict) for _, name in group.waiting]
            elif soonest is None or due < soonest:
                soonest = due
        return found, soonest

    def place(self, key: Key) -> tuple[int, int]:
        """Return the place of a lease among those that wait for the same exporters, and how many they are."""
        if key in self._in_flight:
            return 1, 1
        entry = self._group_of.get(key)
        if entry is None:
            return 0, 0
        group, rank = entry
        place = bisect_left(group.waiting, rank) + 1
        count = len(group.waiting)
        for other in self._overlapping(group):
            count += len(other.waiting)
            if other.priority > group.priority:
                place += len(other.waiting)
            elif other.priority == group.priority:
                place += bisect_left(other.waiting, rank)
        return place, count

    def _overlapping(self, group: Group) -> tuple[Group, ...]:
        if group.overlaps[0] != self._structure:
            found = tuple(
                other
                for other in self._groups.values()
                if other is not group
                and other.namespace == group.namespace
                and not group.members.keys().isdisjoint(other.members)
            )
            group.overlaps = (self._structure, found)
        return group.overlaps[1]

    def group_of(self, key: Key) -> Group | None:
        """Return the group in which a lease waits."""
        entry = self._group_of.get(key)
        return entry[0] if entry is not None else None

    def waiting_for(self, exporter: Key) -> int:
        """Return how many leases wait that could have an exporter."""
        return sum(len(group.waiting) for group in self._groups_with.get(exporter, ()))

    def waiting(self) -> Iterable[tuple[Group, int]]:
        """Iterate over the groups in which leases wait, with a number that changes when their places may have."""
        for group in self._groups.values():
            if group.waiting:
                yield group, group.revision + sum(other.revision for other in self._overlapping(group))
