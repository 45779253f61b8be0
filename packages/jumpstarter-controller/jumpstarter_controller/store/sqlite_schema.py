"""The tables of an SQLite store, and how those of an older version become those of this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from .base import StoreError

APPLICATION_ID = 0x4A4D504C
"""`JMPL` in the header of the file says that it is ours."""

Migration = Callable[[sqlite3.Connection], None]


def _first(connection: sqlite3.Connection) -> None:
    for statement in (
        # Everything that matters now. It stays small, however long the lab runs.
        """CREATE TABLE record (
            kind TEXT NOT NULL,
            namespace TEXT NOT NULL,
            name TEXT NOT NULL,
            uid TEXT NOT NULL,
            version INTEGER NOT NULL,
            created TEXT NOT NULL,
            exporter TEXT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (kind, namespace, name)
        )""",
        # The last line of defence against giving one exporter to two leases.
        """CREATE UNIQUE INDEX one_lease_per_exporter ON record (namespace, exporter)
            WHERE kind = 'leases' AND exporter <> ''""",
        """CREATE TABLE ended_lease (
            namespace TEXT NOT NULL,
            name TEXT NOT NULL,
            uid TEXT NOT NULL,
            version INTEGER NOT NULL,
            created TEXT NOT NULL,
            ended_at INTEGER NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (namespace, name)
        )""",
        "CREATE INDEX ended_lease_by_time ON ended_lease (ended_at)",
        "CREATE TABLE counter (version INTEGER NOT NULL)",
        "INSERT INTO counter VALUES (0)",
        "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
        # AUTOINCREMENT: an id is never used again, also when all entries were collected.
        """CREATE TABLE audit (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time INTEGER NOT NULL,
            namespace TEXT NOT NULL,
            actor_kind TEXT NOT NULL,
            actor TEXT NOT NULL,
            topic TEXT NOT NULL,
            action TEXT NOT NULL,
            peer TEXT NOT NULL,
            client TEXT NOT NULL,
            exporter TEXT NOT NULL,
            lease TEXT NOT NULL,
            details TEXT NOT NULL
        )""",
        "CREATE INDEX audit_by_time ON audit (time)",
        "CREATE INDEX audit_by_namespace ON audit (namespace)",
        "CREATE INDEX audit_by_topic ON audit (topic)",
        "CREATE INDEX audit_by_client ON audit (client) WHERE client <> ''",
        "CREATE INDEX audit_by_exporter ON audit (exporter) WHERE exporter <> ''",
        "CREATE INDEX audit_by_lease ON audit (lease) WHERE lease <> ''",
        # Up to which entry the running collection may remove; empty at all other times.
        "CREATE TABLE audit_collection (last INTEGER NOT NULL)",
        """CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
            BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END""",
        """CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
            WHEN NOT EXISTS (SELECT 1 FROM audit_collection WHERE last >= OLD.id)
            BEGIN SELECT RAISE(ABORT, 'audit entries are only removed by collection'); END""",
        # INSERT OR REPLACE would remove without the trigger above.
        """CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit
            WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
            BEGIN SELECT RAISE(ABORT, 'audit entries are never replaced'); END""",
    ):
        connection.execute(statement)


MIGRATIONS: tuple[Migration, ...] = (_first,)
"""What leads from each version of the tables to the next; the version is their number."""


def version(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the version of the tables of a database, 0 for an empty one.

    Raises:
        StoreError: it belongs to something else, or is of a newer version.
    """
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner == APPLICATION_ID:
        if number > len(migrations):
            raise StoreError(
                f"The store {path} was written by a newer version of this program (its tables are of version {number}, "
                f"this program knows {len(migrations)}). Update the program, or restore a backup from before."
            )
        return number
    if owner == 0 and number == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return 0
    raise StoreError(f"{path} is a database, but not the store of a lab. Give another path; it was left as it is.")


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the tables to the version of this program, all in one transaction.

    Raises:
        StoreError: they are of a newer version, or not ours; nothing was changed.
    """
    if version(connection, path, migrations) == 0:
        # Can't be set later: freed room can be given back.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    # Readers don't wait for writers. A backup that was restored has another mode.
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    try:
        current = version(connection, path, migrations)
        if current < len(migrations):
            for step in migrations[current:]:
                step(connection)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
