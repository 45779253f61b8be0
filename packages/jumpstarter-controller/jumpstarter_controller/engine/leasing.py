"""Gives clients the leases that they ask for, or a place in the queue, or says why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from ..asks import Actor, LeaseRequest
from ..errors import Code, Refused
from ..model import lease as life
from ..model.names import check_context, check_name, check_tags
from ..model.policy import Admission, refuse_length_or_number
from ..model.records import Key, Kind, Lease, Meta
from ..model.selector import parse_for_lease
from ..model.uuid7 import uuid7
from ..scheduler import Assignment, Group
from ..store.base import Conflict, Create, Exists, Update, Write
from .core import Core
from .deciding import note_assignment
from .ending import note_end

_ATTEMPTS = 50


class Leasing:
    """Creates leases."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._turns: dict[Key, tuple[anyio.Lock, int]] = {}

    # -- having one --------------------------------------------------------------------------------

    async def create(self, actor: Actor, request: LeaseRequest) -> Lease:
        """Make a lease."""
        draft = self._draft(actor, request)
        assert actor.key is not None
        async with self._turn(actor.key):
            lease = await self._place(draft)
        self._core.audit(
            actor,
            "lease.create",
            client=lease.client,
            lease=lease.meta.name,
            selector=str(lease.selector),
            exporter_name=lease.exporter_name,
            duration=str(lease.duration),
            begin_time=lease.begin_time and lease.begin_time.isoformat(),
            end_time=lease.end_time and lease.end_time.isoformat(),
        )
        if lease.ended:
            last = lease.conditions[-1]
            note_end(self._core, actor, lease, last.reason, last.message)
        elif lease.exporter:
            note_assignment(self._core, lease)
        return lease

    def _draft(self, actor: Actor, request: LeaseRequest) -> Lease:
        client = self._core.world.get(actor.key) if actor.key is not None else None
        if actor.key is None or actor.key.kind is not Kind.CLIENT or client is None:
            raise Refused(
                Code.PERMISSION_DENIED,
                "NO_CLIENT",
                f"{actor.key or actor.kind} can't have a lease: it is no client, or was deleted",
            )
        if not request.selector.strip() and not request.exporter_name:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "NO_TARGET",
                "one of selector or exporter_name is required: say which exporter, or what labels it has to have",
            )
        check_tags(request.tags, self._core.settings.leases.max_tags)
        check_context(request.context)
        if request.name:
            check_name(request.name, "a lease")
        if request.exporter_name:
            check_name(request.exporter_name, "an exporter")
        selector = parse_for_lease(request.selector)
        times = life.reconcile_times(request.duration, request.begin_time, request.end_time)
        now = self._core.now()
        return Lease(
            meta=Meta(
                namespace=actor.key.namespace,
                name=request.name or uuid7(now),
                created=now,
                labels=life.metadata_labels(selector, request.tags),
            ),
            client=actor.key.name,
            selector=selector,
            selector_text=request.selector.strip(),
            exporter_name=request.exporter_name,
            duration=times.duration,
            begin_time=times.begin,
            end_time=times.end,
            tags=dict(request.tags),
            context=dict(request.context),
            allow_disabled=request.allow_disabled,
        )

    @asynccontextmanager
    async def _turn(self, client: Key) -> AsyncIterator[None]:
        """Let one client create one lease after the other where their number is limited."""
        if not any(
            rule.maximum_leases for policy in self._core.world.policies(client.namespace) for rule in policy.rules
        ):
            yield
            return
        lock, users = self._turns.get(client, (anyio.Lock(), 0))
        self._turns[client] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns[client]
            if users == 1:
                del self._turns[client]
            else:
                self._turns[client] = lock, users - 1

    async def _place(self, draft: Lease) -> Lease:
        """Write a lease with its exporter, or as one that waits, or as one that never can be had."""
        core = self._core
        for _ in range(_ATTEMPTS):
            assignment: Assignment | None = None
            if core.leading and not core.chores.paused and life.state(draft, core.now()) is life.State.PENDING:
                assignment = core.scheduler.offer(draft, core.now()) if not self._is_over(draft) else None
            try:
                writes = self._writes(draft, assignment)
                try:
                    records = await core.ledger.commit(*writes)
                except Exists:
                    raise Refused(
                        Code.UNKNOWN,
                        "ALREADY_EXISTS",
                        f'leases.jumpstarter.dev "{draft.meta.name}" already exists; choose another name, or none',
                        {"lease": draft.meta.name},
                    ) from None
                except Conflict as conflict:
                    await core.ledger.moved(conflict, writes)
                    continue
                lease = records[-1]
                assert isinstance(lease, Lease)
                return lease
            finally:
                if assignment is not None:
                    core.scheduler.settle(assignment, core.now())
                    core.wake()
        raise Refused(
            Code.ABORTED, "CONTENTION", f"lease {draft.meta.name} could not be placed, others were faster; try again"
        )

    def _is_over(self, draft: Lease) -> bool:
        end = life.expiry(draft)
        return end is not None and end <= self._core.now()

    def _writes(self, draft: Lease, assignment: Assignment | None) -> Sequence[Write]:
        now, scheduler = self._core.now(), self._core.scheduler
        if self._is_over(draft):
            return (Create(life.end(draft, "Expired", "the time that was asked for is over already", now)),)
        if assignment is not None:
            exporter = self._core.world.exporter(assignment.exporter)
            assert exporter is not None
            begun = life.begin(draft, exporter.meta.name, assignment.approval, now)
            return Update(life.hold(exporter, draft.meta.name, now)), Create(begun)
        group = scheduler.group_for(draft, now)
        if not group.members:
            refuse_by_policy(self._core, draft, group.admission)
        if life.state(draft, now) is life.State.SCHEDULED:
            return (Create(replace(draft, policy=_likely_rule(group))),)
        verdict = scheduler.verdict(draft, now)
        if verdict.final:
            return (Create(life.refuse(draft, verdict.kind, verdict.reason, verdict.message, now)),)
        waiting = life.pend(draft, verdict.reason, verdict.message, now)
        return (Create(replace(waiting, policy=_likely_rule(group))),)


def refuse_by_policy(core: Core, lease: Lease, admission: Admission) -> None:
    """Raise `Refused` when it is only for how long, or how many, that a client can't have what it asks for."""
    matching = [
        exporter.meta.labels
        for exporter in core.world.exporters(lease.meta.namespace)
        if (not lease.exporter_name or exporter.meta.name == lease.exporter_name)
        and (exporter.enabled or (lease.exporter_name and lease.allow_disabled))
        and lease.selector.matches(exporter.meta.labels)
    ]
    if not any(admission.best(labels) is not None for labels in matching):
        refuse_length_or_number(admission, matching, life.requested_length(lease))


def _likely_rule(group: Group) -> str:
    """Return the rule by which a waiting lease counts."""
    best = max(group.members.values(), key=lambda approval: approval.rule.priority, default=None)
    return best.name if best is not None else ""
