"""What administrators do: accounts and access policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..asks import Actor
from ..errors import Code, Refused
from ..model import lease as life
from ..model.names import check_labels, check_name, check_namespace
from ..model.records import Account, Exporter, Key, Kind, Lease, Meta, Policy, Record
from ..store.base import Create, Delete, Exists, Update, Write
from .core import Core
from .ending import ending, freed_of_shares, note_end

_RESOURCES = {
    Kind.CLIENT: "client",
    Kind.EXPORTER: "exporter",
    Kind.ADMIN: "admin",
    Kind.ROUTER: "router",
    Kind.POLICY: "policy",
}

MAXIMUM_RULES = 1000


class Accounts:
    """Adds, changes and removes accounts and policies."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Add an account."""
        self._check(record)
        clean = replace(record, meta=replace(record.meta, uid="", version="", created=self._core.now()))
        created = await self._create(clean)
        self._note(actor, "account.create", record.key)
        return created  # type: ignore[return-value]

    async def update(self, actor: Actor, record: Account | Exporter) -> Account | Exporter:
        """Replace an account of the same version."""
        self._check(record)
        present = self._core.world.get(record.key)
        changed = await self._replace(record)
        if present == replace(record, credential=getattr(present, "credential", record.credential)):
            self._note(actor, "account.rotate", record.key)
        else:
            self._note(actor, "account.update", record.key, enabled=record.enabled)
        return changed  # type: ignore[return-value]

    async def delete(self, actor: Actor, key: Key) -> None:
        """Remove an account; its leases end in the same commit."""
        if key.kind in (Kind.LEASE, Kind.POLICY):
            raise Refused(Code.INVALID_ARGUMENT, "INVALID_KIND", f"{key} is no account")
        ended: list[Lease] = []

        def build() -> Sequence[Write]:
            ended.clear()
            record = self._present(key)
            now = self._core.now()
            writes: list[Write] = [Delete(key, record.meta.version)]
            text = f"{_RESOURCES[key.kind]} {key.name} was deleted"
            for lease in self._concerned(key):
                if key.kind is Kind.CLIENT and lease.client != key.name:
                    writes.append(Update(freed_of_shares(lease, key.name)))
                    continue
                ended.append(life.end(lease, "Released", text, now))
                if key.kind is Kind.EXPORTER:
                    writes.append(Update(ended[-1]))
                else:
                    writes += ending(self._core, lease, ended[-1])
            return writes

        await self._core.ledger.transact(build)
        self._note(actor, "account.delete", key)
        for lease in ended:
            note_end(self._core, actor, lease, "Released", lease.conditions[-1].message)

    def _concerned(self, key: Key) -> list[Lease]:
        """Return the leases that an account has, or has a share in."""
        leases = self._core.world.leases(key.namespace)
        match key.kind:
            case Kind.EXPORTER:
                return [lease for lease in leases if lease.exporter == key.name]
            case Kind.CLIENT:
                return [lease for lease in leases if lease.client == key.name or key.name in lease.shares]
            case _:
                return []

    async def put_policy(self, actor: Actor, policy: Policy, *, create: bool) -> Policy:
        """Add or replace a policy."""
        self._check_policy(policy)
        if create:
            meta: Meta = replace(policy.meta, uid="", version="", created=self._core.now())
            result = await self._create(replace(policy, meta=meta))
        else:
            result = await self._replace(policy)
        self._note(actor, "policy.create" if create else "policy.update", policy.key)
        return result  # type: ignore[return-value]

    async def delete_policy(self, actor: Actor, key: Key) -> None:
        """Remove a policy."""

        def build() -> Sequence[Write]:
            return (Delete(key, self._present(key).meta.version),)

        await self._core.ledger.transact(build)
        self._note(actor, "policy.delete", key)

    # -- shared ------------------------------------------------------------------------------------

    def _check(self, record: Account | Exporter) -> None:
        what = f"{_RESOURCES.get(record.key.kind, 'account')}"
        check_namespace(record.meta.namespace)
        check_name(record.meta.name, f"a {what}")
        check_labels(record.meta.labels, f"{what} {record.meta.name}")

    def _check_policy(self, policy: Policy) -> None:
        check_namespace(policy.meta.namespace)
        check_name(policy.meta.name, "a policy")
        name = policy.meta.name
        if len(policy.rules) > MAXIMUM_RULES:
            raise _invalid_policy(f"policy {name} has {len(policy.rules)} rules, more than {MAXIMUM_RULES}")
        for number, rule in enumerate(policy.rules, 1):
            for field in ("maximum_duration", "idle_timeout", "extend_by_use", "maximum_use"):
                value = getattr(rule, field)
                if value is not None and value.total_seconds() <= 0:
                    raise _invalid_policy(f"{field} of rule {number} of policy {name} must be positive, not {value}")
            if rule.maximum_leases < 0:
                raise _invalid_policy(f"maximum_leases of rule {number} of policy {name} can't be negative")
            if len(rule.description) > 1024:
                raise _invalid_policy(f"the description of rule {number} of policy {name} is longer than 1024")
            if rule.extend_by_use is not None and rule.maximum_use is None and rule.maximum_duration is None:
                raise _invalid_policy(
                    f"rule {number} of policy {name} extends leases by use without end: give maximum_use or "
                    "maximum_duration as well"
                )

    def _present(self, key: Key) -> Record:
        record = self._core.world.get(key)
        if record is None:
            raise Refused(
                Code.NOT_FOUND, "NOT_FOUND", f'{key.kind}.jumpstarter.dev "{key.name}" not found', {"name": str(key)}
            )
        return record

    async def _create(self, record: Record) -> Record:
        key = record.key
        try:
            return (await self._core.ledger.transact(lambda: (Create(record),)))[0]
        except Exists:
            raise Refused(
                Code.ALREADY_EXISTS,
                "ALREADY_EXISTS",
                f'{key.kind}.jumpstarter.dev "{key.name}" already exists in namespace {key.namespace}',
                {"name": str(key)},
            ) from None

    async def _replace(self, record: Record) -> Record:
        key = record.key

        def build() -> Sequence[Write]:
            present = self._present(key)
            if present.meta.version != record.meta.version:
                raise Refused(
                    Code.ABORTED,
                    "CHANGED_MEANWHILE",
                    f"{_RESOURCES[key.kind]} {key.name} was changed by somebody else meanwhile; look at it again, then "
                    "repeat the change",
                    {"name": str(key)},
                )
            return (Update(record),)

        return (await self._core.ledger.transact(build))[0]

    def _note(self, actor: Actor, action: str, key: Key, **details: object) -> None:
        about = {"client": key.name} if key.kind is Kind.CLIENT else {}
        if key.kind is Kind.EXPORTER:
            about = {"exporter": key.name}
        self._core.audit(actor, action, key.namespace, kind=_RESOURCES[key.kind], name=key.name, **about, **details)


def _invalid_policy(text: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "INVALID_POLICY", text)
