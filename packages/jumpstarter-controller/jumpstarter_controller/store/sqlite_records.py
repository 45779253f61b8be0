"""Records in the tables of an SQLite store: those that matter now in one, leases that have ended in another."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..model.records import Key, Kind, Lease, Record
from .base import Changed, Conflict, Create, Delete, Deleted, Exists, Missing, StoreError, Write
from .codec import decode, encode, stamp, to_number
from .hub import ended
from .sqlite_files import error_code
from .sqlite_writer import Transaction

_CHUNK = 50
"""So many ended leases or pages are removed before looking at the time."""

_SLACK_PAGES = 256
"""So much free room (1 MiB) stays in the file for what comes next."""


def apply(transaction: Transaction, writes: Sequence[Write]) -> list[Record]:
    """Do all writes of a commit, in order.

    Raises:
        Conflict: a record is not in the expected state; the caller takes back what was done before it.
    """
    return [_apply(transaction, write) for write in writes]


def _apply(transaction: Transaction, write: Write) -> Record:
    if isinstance(write, Delete):
        record = _delete(transaction, write)
        transaction.events.append(Deleted(record))
        return record
    record = _create(transaction, write.record) if isinstance(write, Create) else _update(transaction, write.record)
    transaction.events.append(Changed(record))
    return record


def _create(transaction: Transaction, record: Record) -> Record:
    key = record.key
    if _find(transaction.connection, key) is not None:
        raise Exists(key, f"{key} already exists.")
    new = stamp(
        record,
        uid=record.meta.uid or str(uuid.uuid4()),
        version=str(transaction.version),
        created=record.meta.created or transaction.now,
    )
    _insert(transaction, new)
    return new


def _update(transaction: Transaction, record: Record) -> Record:
    key = record.key
    was_ended, uid, created = _expect(transaction.connection, key, record.meta.version, "changed")
    new = stamp(record, uid=uid, version=str(transaction.version), created=datetime.fromisoformat(created))
    if was_ended or ended(new):
        _remove(transaction.connection, key, was_ended=was_ended)
        _insert(transaction, new)
        return new
    with_exporter = _exporter(new)
    try:
        transaction.connection.execute(
            "UPDATE record SET version = ?, exporter = ?, document = ? WHERE kind = ? AND namespace = ? AND name = ?",
            (transaction.version, with_exporter, encode(new), key.kind, key.namespace, key.name),
        )
    except sqlite3.IntegrityError as error:
        raise _taken(error, key, with_exporter) from None
    return new


def _delete(transaction: Transaction, write: Delete) -> Record:
    key = write.key
    was_ended, _, _ = _expect(transaction.connection, key, write.version or None, "deleted")
    last = get(transaction.connection, key)
    assert last is not None
    _remove(transaction.connection, key, was_ended=was_ended)
    return last


def _expect(connection: sqlite3.Connection, key: Key, version: str | None, verb: str) -> tuple[bool, str, str]:
    """Return whether a record is a lease that has ended, its uid and its time of creation.

    Args:
        version: the one that it has to have; None for any.
    """
    row = _find(connection, key)
    if row is None:
        raise Missing(key, f"{key} can't be {verb}: it does not exist.")
    was_ended, current, uid, created = row
    if version is not None and version != str(current):
        raise Conflict(
            key,
            f"{key} can't be {verb}: it was changed meanwhile (version {current}, expected {version or 'none'}). "
            "Look at it again and retry.",
        )
    return was_ended, uid, created


def _find(connection: sqlite3.Connection, key: Key) -> tuple[bool, int, str, str] | None:
    row = connection.execute(
        "SELECT version, uid, created FROM record WHERE kind = ? AND namespace = ? AND name = ?",
        (key.kind, key.namespace, key.name),
    ).fetchone()
    if row is not None:
        return False, *row
    if key.kind is Kind.LEASE:
        row = connection.execute(
            "SELECT version, uid, created FROM ended_lease WHERE namespace = ? AND name = ?", (key.namespace, key.name)
        ).fetchone()
        if row is not None:
            return True, *row
    return None


def _insert(transaction: Transaction, record: Record) -> None:
    key, meta = record.key, record.meta
    assert meta.created is not None
    common = (meta.uid, transaction.version, meta.created.isoformat())
    if isinstance(record, Lease) and record.ended:
        transaction.connection.execute(
            "INSERT INTO ended_lease (namespace, name, uid, version, created, ended_at, document) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key.namespace, key.name, *common, to_number(record.ended_at or transaction.now), encode(record)),
        )
        return
    exporter = _exporter(record)
    try:
        transaction.connection.execute(
            "INSERT INTO record (kind, namespace, name, uid, version, created, exporter, document) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key.kind, key.namespace, key.name, *common, exporter, encode(record)),
        )
    except sqlite3.IntegrityError as error:
        raise _taken(error, key, exporter) from None


def _remove(connection: sqlite3.Connection, key: Key, *, was_ended: bool) -> None:
    if was_ended:
        connection.execute("DELETE FROM ended_lease WHERE namespace = ? AND name = ?", (key.namespace, key.name))
    else:
        connection.execute(
            "DELETE FROM record WHERE kind = ? AND namespace = ? AND name = ?", (key.kind, key.namespace, key.name)
        )


def _exporter(record: Record) -> str:
    return record.exporter if isinstance(record, Lease) else ""


def _taken(error: sqlite3.IntegrityError, key: Key, exporter: str) -> Exception:
    if error_code(error) == sqlite3.SQLITE_CONSTRAINT and exporter:
        return Conflict(key, f"{key} can't have the exporter {exporter}: another lease has it.")
    return error


def load(connection: sqlite3.Connection, path: Path) -> list[Record]:
    """Return all records except leases that have ended."""
    records = []
    for kind, namespace, name, document in connection.execute("SELECT kind, namespace, name, document FROM record"):
        try:
            records.append(decode(Kind(kind), document))
        except ValueError as error:
            raise StoreError(
                f"The store {path} has a record that this program does not understand, namespaces/{namespace}/{kind}/"
                f"{name}: {error}. Use the program that wrote it, or restore a backup."
            ) from None
    return records


def get(connection: sqlite3.Connection, key: Key) -> Record | None:
    """Return a record, ended leases included."""
    row = connection.execute(
        "SELECT document FROM record WHERE kind = ? AND namespace = ? AND name = ?", (key.kind, key.namespace, key.name)
    ).fetchone()
    if row is None and key.kind is Kind.LEASE:
        row = connection.execute(
            "SELECT document FROM ended_lease WHERE namespace = ? AND name = ?", (key.namespace, key.name)
        ).fetchone()
    return None if row is None else decode(key.kind, row[0])


def ended_leases(
    connection: sqlite3.Connection, namespace: str, *, limit: int, after: str, newest_first: bool
) -> list[Record]:
    """Return a page of leases that have ended, by name."""
    condition = "" if not after else f" AND name {'<' if newest_first else '>'} ?"
    rows = connection.execute(
        f"SELECT document FROM ended_lease WHERE namespace = ?{condition} "
        f"ORDER BY name {'DESC' if newest_first else 'ASC'} LIMIT ?",
        (namespace, *((after,) if after else ()), limit or -1),
    )
    return [decode(Kind.LEASE, document) for (document,) in rows]


def collect_chunk(transaction: Transaction, before: datetime) -> int:
    """Remove some leases that ended before a time, and return how many; 0 means that all are gone."""
    total = 0
    while not transaction.long:
        removed = transaction.connection.execute(
            "DELETE FROM ended_lease WHERE rowid IN "
            "(SELECT rowid FROM ended_lease WHERE ended_at < ? ORDER BY ended_at LIMIT ?)",
            (to_number(before), _CHUNK),
        ).rowcount
        if not removed:
            break
        total += removed
    return total


def shrink_chunk(transaction: Transaction) -> bool:
    """Give some free room in the file back, and return whether there is more to give."""
    while not transaction.long:
        free: int = transaction.connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free <= _SLACK_PAGES:
            return False
        transaction.connection.execute(f"PRAGMA incremental_vacuum({min(free - _SLACK_PAGES, _CHUNK)})").fetchall()
    return True
