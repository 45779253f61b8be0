"""What owners do with their leases: extend, shorten, hand over, share, and give them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from ..asks import Actor, LeaseChange
from ..errors import Code, Refused
from ..model import lease as life
from ..model.policy import Admission, Approval, admit, refuse_length_or_number
from ..model.records import Key, Kind, Lease, Role
from ..store.base import Update, Write
from .core import Core
from .ending import end_lease, ending, freed_of_shares, note_end
from .leasing import refuse_by_policy


class Changing:
    """Changes and releases leases."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # -- changing it -------------------------------------------------------------------------------

    async def update(self, actor: Actor, key: Key, change: LeaseChange) -> Lease:
        """Extend, shorten, hand over or share a lease."""
        await self._find(key, Code.UNKNOWN)
        before: list[Lease] = []

        def build() -> Sequence[Write]:
            lease = self._core.world.lease(key)
            self._check_owner(actor, key, lease)
            if lease is None:
                raise _refused("LEASE_ENDED", f"lease {key.name} has ended and can't be changed; ask for a new one")
            before[:] = [lease]
            changed = self._apply(lease, change)
            end = life.expiry(changed)
            if changed.exporter and end is not None and end <= self._core.now():
                return ending(
                    self._core, lease, life.end(changed, "Expired", "its time was shortened", self._core.now())
                )
            return (Update(changed),) if changed != lease else ()

        records = await self._core.ledger.transact(build)
        if not records:
            return before[0]
        lease = records[-1]
        assert isinstance(lease, Lease)
        self._note_change(actor, before[0], lease)
        return lease

    def _apply(self, lease: Lease, change: LeaseChange) -> Lease:
        changed = lease
        if change.duration is not None or change.begin_time is not None or change.end_time is not None:
            changed = life.change_times(
                lease,
                self._core.now(),
                duration=change.duration,
                begin_time=change.begin_time,
                end_time=change.end_time,
            )
            if life.requested_length(changed) > life.requested_length(lease):
                self._check_length(changed)
        if change.client and change.client != changed.client:
            changed = self._hand_over(changed, change.client)
        for client, role in change.shares.items():
            changed = self._share(changed, client, role)
        return changed

    def _check_length(self, lease: Lease) -> None:
        if not lease.exporter:
            group = self._core.scheduler.group_for(lease, self._core.now())
            if not group.members:
                refuse_by_policy(self._core, lease, group.admission)
            return
        self._approval(lease, lease.client, as_used=False)

    def _approval(self, lease: Lease, client: str, *, as_used: bool) -> Approval:
        """Return the rule on which a client may have a running lease.

        Args:
            as_used: a length to which use may have extended it is no reason to refuse.

        Raises:
            Refused: no rule allows it.
        """
        namespace = lease.meta.namespace
        exporter = self._core.world.exporter(Key(Kind.EXPORTER, namespace, lease.exporter))
        labels = exporter.meta.labels if exporter is not None else {}
        length = life.requested_length(lease)

        def held(rule: str) -> int:
            others = self._core.world.leases_of(Key(Kind.CLIENT, namespace, client))
            return sum(other.policy == rule for other in others if other.meta.name != lease.meta.name)

        client_labels = self._core.world.client_labels(namespace, client)
        admission = admit(self._core.world.policies(namespace), client_labels, length, held)
        approval = admission.best(labels)
        if approval is None and as_used:
            by_use = [item for item in admission.too_long if (item.rule.maximum_use or timedelta(0)) >= length]
            approval = Admission(tuple(by_use)).best(labels)
        if approval is not None:
            return approval
        refuse_length_or_number(admission, [labels], length)
        raise _refused(
            "NO_ACCESS",
            f"no access policy lets client {client} have exporter {lease.exporter}; `jmp get exporters` lists what "
            "there is, an administrator can change the policies",
        )

    def _hand_over(self, lease: Lease, client: str) -> Lease:
        name = lease.meta.name
        if not lease.exporter:
            raise _refused("NOT_BEGUN", f"lease {name} can't be handed over, it has not begun and has no exporter yet")
        self._check_client(lease, client)
        approval = self._approval(lease, client, as_used=True)
        return life.on_terms(replace(freed_of_shares(lease, client), client=client), approval)

    def _share(self, lease: Lease, client: str, role: Role | None) -> Lease:
        if role is None:
            return freed_of_shares(lease, client)
        self._check_client(lease, client)
        if client == lease.client:
            raise _refused("IS_OWNER", f"client {client} owns lease {lease.meta.name}, that is more than any role")
        return replace(lease, shares={**lease.shares, client: role})

    def _check_client(self, lease: Lease, client: str) -> None:
        if self._core.world.accounts(Kind.CLIENT, lease.meta.namespace).get(client) is None:
            raise _refused(
                "NO_SUCH_CLIENT",
                f'clients.jumpstarter.dev "{client}" not found in namespace {lease.meta.namespace}: lease '
                f"{lease.meta.name} stays as it is",
            )

    def _note_change(self, actor: Actor, old: Lease, new: Lease) -> None:
        core = self._core
        about = {"client": new.client, "exporter": new.exporter, "lease": new.meta.name}
        namespace = new.meta.namespace
        if life.expiry(old) != life.expiry(new) or old.duration != new.duration:
            core.audit(
                actor, "lease.extend", namespace, **about, until=str(life.expiry(new)), duration=str(new.duration)
            )
        if old.client != new.client:
            core.audit(actor, "lease.transfer", namespace, **about, former=old.client)
        if old.shares != new.shares:
            for client in sorted({*old.shares, *new.shares}):
                if old.shares.get(client) != new.shares.get(client):
                    role = new.shares.get(client)
                    core.audit(actor, "lease.share", namespace, **about, to=client, role=role.value if role else "none")
        if new.ended:
            note_end(core, actor, new, "Expired", "its time was shortened")

    # -- giving it back ----------------------------------------------------------------------------

    async def release(self, actor: Actor, key: Key, reason: str) -> Lease:
        """End a lease; one that has ended is returned as it is."""
        missing = Code.NOT_FOUND if actor.kind == "exporter" else Code.UNKNOWN

        def judge(lease: Lease) -> tuple[str, str]:
            self._check_release(actor, lease)
            return "Released", reason or f"released by {actor.kind} {actor.key.name if actor.key else ''}".strip()

        ended = await end_lease(self._core, actor, key, judge)
        if ended is not None:
            return ended
        lease = await self._find(key, missing)
        self._check_release(actor, lease)
        return lease

    def _check_release(self, actor: Actor, lease: Lease) -> None:
        key = actor.key
        if actor.kind in ("admin", "server"):
            return
        if actor.kind == "exporter":
            if key is None or key.namespace != lease.meta.namespace or key.name != lease.exporter:
                raise Refused(
                    Code.FAILED_PRECONDITION,
                    "NOT_HELD",
                    f"lease {lease.meta.name} is not held by exporter {key.name if key else ''}",
                )
            return
        self._check_owner(actor, lease.key, lease)

    def _check_owner(self, actor: Actor, key: Key, lease: Lease | None) -> None:
        if actor.kind in ("admin", "server"):
            return
        if lease is not None and actor.key != Key(Kind.CLIENT, key.namespace, lease.client):
            raise _refused(
                "NOT_OWNER",
                f"permission denied: lease {key.name} belongs to client {lease.client}, only its owner can change or "
                "end it",
            )

    async def _find(self, key: Key, missing: Code) -> Lease:
        lease = self._core.world.lease(key) or await self._core.ledger.get(key)
        if not isinstance(lease, Lease):
            raise Refused(missing, "NOT_FOUND", f'leases.jumpstarter.dev "{key.name}" not found', {"lease": key.name})
        return lease


def _refused(reason: str, message: str) -> Refused:
    return Refused(Code.UNKNOWN, reason, message)
