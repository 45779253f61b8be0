"""The audit record in the tables of an SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from ..model.records import AuditEntry
from .codec import decode_details, encode_details, to_number, to_time
from .sqlite_writer import Transaction

_CHUNK = 50
"""So many entries are removed before looking at the time."""

_COLUMNS = "time, namespace, actor_kind, actor, action, peer, client, exporter, lease, details"


def append(transaction: Transaction, entries: Sequence[AuditEntry]) -> None:
    """Add entries."""
    transaction.connection.executemany(
        f"INSERT INTO audit ({_COLUMNS}, topic) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                to_number(entry.time),
                entry.namespace,
                entry.actor_kind,
                entry.actor,
                entry.action,
                entry.peer,
                entry.client,
                entry.exporter,
                entry.lease,
                encode_details(entry.details),
                _topic(entry.action),
            )
            for entry in entries
        ),
    )


def query(
    *,
    namespace: str,
    since: datetime | None,
    until: datetime | None,
    client: str,
    exporter: str,
    lease: str,
    action: str,
    limit: int,
    after: int,
    newest_first: bool,
) -> tuple[str, list[object]]:
    """Return the statement that reads a page of entries, and its arguments."""
    conditions: list[str] = []
    arguments: list[object] = []

    def add(condition: str, *values: object) -> None:
        conditions.append(condition)
        arguments.extend(values)

    for column, value in (("client", client), ("exporter", exporter), ("lease", lease)):
        if value:
            # The second condition lets the partial index be used.
            add(f"{column} = ? AND {column} <> ''", value)
    if action:
        add("topic = ?", _topic(action))
        if not action.endswith("."):
            add("action = ?", action)
        elif action != _topic(action) + ".":
            add("substr(action, 1, ?) = ?", len(action), action)
    if namespace:
        # The index on namespaces is of use when nothing else tells entries apart.
        add("namespace = ?" if not conditions else "+namespace = ?", namespace)
    # Times grow with the ids but for clock steps: the ids bound what is looked at, and the order needs no sorting.
    if since is not None:
        first = "id >= (SELECT min(id) FROM audit WHERE time >= ?)"
        add(f"{first} AND +time >= ?", to_number(since), to_number(since))
    if until is not None:
        last = "id <= (SELECT max(id) FROM audit WHERE time < ?)"
        add(f"{last} AND +time < ?", to_number(until), to_number(until))
    if after:
        add("id < ?" if newest_first else "id > ?", after)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "DESC" if newest_first else "ASC"
    return f"SELECT id, {_COLUMNS} FROM audit{where} ORDER BY id {order} LIMIT ?", [*arguments, limit or -1]


def read(connection: sqlite3.Connection, statement: str, arguments: Sequence[object]) -> list[AuditEntry]:
    """Return the entries that a statement of `query` gives."""
    return [
        AuditEntry(
            id=number,
            time=to_time(time),
            namespace=namespace,
            actor_kind=actor_kind,
            actor=actor,
            action=action,
            peer=peer,
            client=client,
            exporter=exporter,
            lease=lease,
            details=decode_details(details),
        )
        for (
            number,
            time,
            namespace,
            actor_kind,
            actor,
            action,
            peer,
            client,
            exporter,
            lease,
            details,
        ) in connection.execute(statement, arguments)
    ]


def surplus(connection: sqlite3.Connection, keep: int) -> int:
    """Return the id of the newest entry that is not among the newest `keep`; 0 when there are no more than those."""
    row = connection.execute("SELECT id FROM audit ORDER BY id DESC LIMIT 1 OFFSET ?", (keep,)).fetchone()
    return row[0] if row else 0


def collect_chunk(transaction: Transaction, before: datetime | None, surplus: int) -> int:
    """Remove some entries from before a time or up to an id, and return how many; 0 means that all are gone."""
    total = 0
    while not transaction.long and (chosen := _oldest(transaction.connection, before, surplus)):
        transaction.connection.execute("INSERT INTO audit_collection VALUES (?)", (max(chosen),))
        transaction.connection.executemany("DELETE FROM audit WHERE id = ?", ((number,) for number in chosen))
        transaction.connection.execute("DELETE FROM audit_collection")
        total += len(chosen)
    return total


def _oldest(connection: sqlite3.Connection, before: datetime | None, surplus: int) -> list[int]:
    """Return the ids of some entries that may go."""
    chosen = connection.execute("SELECT id FROM audit WHERE id <= ? ORDER BY id LIMIT ?", (surplus, _CHUNK)).fetchall()
    if not chosen and before is not None:
        chosen = connection.execute(
            "SELECT id FROM audit WHERE time < ? ORDER BY time LIMIT ?", (to_number(before), _CHUNK)
        ).fetchall()
    return [number for (number,) in chosen]


def _topic(action: str) -> str:
    return action.partition(".")[0]
