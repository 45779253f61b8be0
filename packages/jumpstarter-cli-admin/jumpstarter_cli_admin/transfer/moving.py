"""Reading a lab out of a place, and putting it into another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_controller.identity.keys import ACCOUNT_SECRET
from jumpstarter_controller.model.records import Account, AuditEntry, Exporter, Kind, Record
from jumpstarter_controller.store.base import Create, Store
from jumpstarter_kubernetes.values import MIGRATED_NAMESPACE, MIGRATED_TOKEN, MIGRATED_UID

from .lab_file import KINDS, LabFile, at_rest
from .places import Place, everything

AT_ONCE = 50
"""Records that are written in one go."""


@dataclass(frozen=True)
class Exported:
    """A lab that was read, and what stays behind."""

    lab: LabFile
    leases: int
    """That have not ended."""
    without_token: Sequence[str]
    """Accounts that have no token of ours: published controllers sign theirs in another way."""


@dataclass(frozen=True)
class Imported:
    """What was done."""

    added: int
    there: int
    """Those of a former attempt."""
    renamed: str = ""
    """The namespace that configs of peers name, when it is another one now."""


async def export(place: Place, namespace: str = "") -> Exported:
    """Read a lab.

    Args:
        namespace: take what is in this one alone; empty for all.
    """
    place.check(source=True)
    async with place.open() as store:
        records = [at_rest(record) for record in await everything(store, KINDS)]
        leases = await everything(store, [Kind.LEASE])
        secrets = dict(await store.secrets())
    if namespace:
        records = [record for record in records if record.meta.namespace == namespace]
        leases = [lease for lease in leases if lease.meta.namespace == namespace]
    without = [str(record.key) for record in records if _has_account(record) and not _has_token(record)]
    return Exported(LabFile(records, secrets, source=str(place)), len(leases), without)


def _has_account(record: Record) -> bool:
    return isinstance(record, Account | Exporter)


def _has_token(record: Record) -> bool:
    return isinstance(record, Account | Exporter) and bool(record.credential.jti)


def moved(record: Record, namespace: str, *, to_cluster: bool) -> Record:
    """Return a record as it is in another namespace, where its tokens go on counting.

    Args:
        namespace: the new one; empty for the same.
        to_cluster: it becomes an object, whose token would be replaced if nothing said that its owner has it.
    """
    notes = dict(record.meta.annotations)
    # The uid is the record's own from now on, wherever it came from.
    notes.pop(MIGRATED_UID, None)
    notes.pop(MIGRATED_TOKEN, None)
    target = namespace or record.meta.namespace
    if isinstance(record, Account | Exporter):
        named = notes.pop(MIGRATED_NAMESPACE, "") or record.meta.namespace
        if named != target:
            notes[MIGRATED_NAMESPACE] = named
        if to_cluster and record.credential.jti:
            notes[MIGRATED_TOKEN] = record.credential.jti
    return replace(record, meta=replace(record.meta, namespace=target, annotations=notes))


async def put(place: Place, lab: LabFile, *, source_namespace: str = "", namespace: str = "") -> Imported:
    """Put a lab into a place; after a failure the same can be done again.

    Args:
        source_namespace: take what is in this one alone; empty for all.
        namespace: where everything is put; empty for where it was.

    Raises:
        ConfigurationError: something there would be replaced; nothing was changed.
    """
    target = place.namespace or namespace
    chosen = [record for record in lab.records if not source_namespace or record.meta.namespace == source_namespace]
    sources = sorted({record.meta.namespace for record in chosen})
    if source_namespace and not chosen:
        raise ConfigurationError(
            f"the export has nothing in the namespace {source_namespace!r}, only in: "
            f"{', '.join(lab.namespaces) or 'none'}"
        )
    if target and len(sources) > 1:
        raise ConfigurationError(
            f"the export has several namespaces, and all would go into {target!r}: {', '.join(sources)}. "
            "Choose one with --from"
        )
    records = [moved(record, target, to_cluster=bool(place.namespace)) for record in chosen]
    place.check(source=False)
    async with place.open() as store:
        await place.prepare(records)
        missing, there = await _compare(store, records)
        secrets = await _check_keys(store, lab, {record.meta.uid for record in records})
        for name, value in secrets:
            await store.put_secret(name, value, replace=True)
        for start in range(0, len(missing), AT_ONCE):
            await store.commit(*(Create(record) for record in missing[start : start + AT_ONCE]))
        await store.record_audit([_entry(lab, target or "all", len(missing))])
    return Imported(len(missing), there, sources[0] if target and sources and sources[0] != target else "")


async def _compare(store: Store, records: Sequence[Record]) -> tuple[list[Record], int]:
    """Return the records that aren't there yet, and how many are.

    Raises:
        ConfigurationError: others of the same name are there.
    """
    present = {record.key: record for record in await everything(store, KINDS)}
    missing, other = [], []
    for record in records:
        known = present.get(record.key)
        if known is None:
            missing.append(record)
        elif known.meta.uid != record.meta.uid:
            other.append(str(record.key))
    if other:
        raise ConfigurationError(
            f"{len(other)} of the same name are there already, and are others: {', '.join(other[:5])}"
            f"{', ...' if len(other) > 5 else ''}. Delete or rename them first; nothing was changed"
        )
    return missing, len(records) - len(missing)


async def _check_keys(store: Store, lab: LabFile, uids: set[str]) -> list[tuple[str, bytes]]:
    """Return the secrets to be written.

    Raises:
        ConfigurationError: tokens of accounts that are there would stop working.
    """
    kept = await store.secrets()
    changed = [(name, value) for name, value in sorted(lab.secrets.items()) if kept.get(name) != value]
    if ACCOUNT_SECRET in kept and ACCOUNT_SECRET in dict(changed):
        own = [
            str(record.key)
            for record in await everything(store, KINDS)
            if _has_token(record) and record.meta.uid not in uids
        ]
        if own:
            raise ConfigurationError(
                f"the lab there has accounts of its own, whose tokens would stop working with the keys of the export: "
                f"{', '.join(own[:5])}{', ...' if len(own) > 5 else ''}. Import into a lab without accounts, or delete "
                "these first; nothing was changed"
            )
    return changed


def _entry(lab: LabFile, namespace: str, number: int) -> AuditEntry:
    return AuditEntry(
        time=datetime.now(UTC),
        namespace=namespace,
        actor_kind="server",
        actor="",
        action="lab.import",
        details={"from": lab.source, "records": number},
    )
