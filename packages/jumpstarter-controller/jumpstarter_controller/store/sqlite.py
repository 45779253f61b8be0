"""The store of a lab that needs no other program: one SQLite database."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream

from ..clock import Clock, SystemClock
from ..model.records import AuditEntry, Key, Kind, Record
from . import sqlite_audit, sqlite_backup, sqlite_records, sqlite_schema
from .base import Event, StoreError, Unavailable, Write
from .hub import DEFAULT_LIMIT, Hub
from .sqlite_files import connect, corrupt, locked, private_database, private_folder, translate
from .sqlite_readers import Readers
from .sqlite_writer import Transaction, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_BACKUP = timedelta(hours=1)
_FIRST_BACKUP = timedelta(minutes=1)
_BREATH_SECONDS = 0.01
"""Between the steps of a collection, which nobody waits for, the disk belongs to others."""

_LARGE = 256 * 1024 * 1024


class SQLiteStore:
    """Keeps the records of a lab in a file.

    What was acknowledged survives the end of the process and of the machine. Records that matter now are answered from
    memory; everything else is read off the event loop. One process at a time can have it open.

    A `commit` that is cancelled happens whole or not at all: not when it still waits to be let in, else as if it had
    not been cancelled, and watchers are told. Removal of old leases by `collect` is told to nobody.

    Args:
        path: the file; it and its folder are made when they are not there, for their owner alone.
        clock: tells times of creation.
        backup_every: how often a backup is made in the folder next to the file, None for never. The first one is made a
            minute after the start at the soonest.
        backups_kept: how many of them there are at most.
        watch_limit: how many changes may wait for one watcher before it has to start again.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        backup_every: timedelta | None = timedelta(days=1),
        backups_kept: int = 3,
        watch_limit: int = DEFAULT_LIMIT,
        migrations: Sequence[sqlite_schema.Migration] = sqlite_schema.MIGRATIONS,
    ) -> None:
        if backups_kept < 1:
            raise ValueError(
                f"backups_kept is {backups_kept}, at least 1 is needed; backup_every=None makes no backups"
            )
        self.path = Path(path)
        self._clock = clock or SystemClock()
        self._backup_every = backup_every
        self._backups_kept = backups_kept
        self._watch_limit = watch_limit
        self._migrations = migrations
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> SQLiteStore:
        """Open the file, check it, and bring its tables up to date.

        Raises:
            StoreError: it is damaged, in use, or of a newer version; it was left as it is.
            Unavailable: the disk is full or can't be written.
        """
        async with AsyncExitStack() as stack:
            try:
                await anyio.to_thread.run_sync(private_folder, self.path.parent)
                stack.enter_context(locked(self.path))
                await anyio.to_thread.run_sync(private_database, self.path)
            except OSError as error:
                raise Unavailable(f"The store {self.path} can't be opened: {error}.") from error
            self._hub = Hub(limit=self._watch_limit)
            self._readers = Readers(self.path)
            stack.push_async_callback(self._readers.close)
            self._writer = Writer(self.path, self._clock, self._hub.publish)
            connection, version, records = await anyio.to_thread.run_sync(self._open)
            self._hub.load(records)
            stack.callback(self._hub.close)
            self._writer.start(connection, version)
            stack.push_async_callback(self._writer.close)
            self._stop = threading.Event()
            if self._backup_every is not None:
                tasks = await stack.enter_async_context(anyio.create_task_group())
                tasks.start_soon(self._back_up, self._backup_every)
                stack.callback(tasks.cancel_scope.cancel)
            stack.callback(self._stop.set)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *args: object) -> None:
        """Finish what was begun, and close the file."""
        await self._exit.aclose()

    def _open(self) -> tuple[sqlite3.Connection, int, list[Record]]:
        try:
            connection = connect(self.path)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        try:
            found = sqlite_schema.version(connection, self.path, self._migrations)
            self._check(connection)
            if 0 < found < len(self._migrations):
                sqlite_backup.backup_before_migration(self.path, found)
            sqlite_schema.migrate(connection, self.path, self._migrations)
            records = sqlite_records.load(connection, self.path)
            version: int = connection.execute("SELECT version FROM counter").fetchone()[0]
        except sqlite3.Error as error:
            connection.close()
            raise translate(error, self.path) from error
        except BaseException:
            connection.close()
            raise
        return connection, version, records

    def _check(self, connection: sqlite3.Connection) -> None:
        """Look for damage: everywhere in a file of common size; else, for a quick start, in what is needed at once.

        History and audit record of a large file are looked at whenever a backup is made.
        """
        checks = ["PRAGMA quick_check(3)"]
        if self.path.stat().st_size > _LARGE:
            checks = ["PRAGMA quick_check(record)", "PRAGMA quick_check(secret)", "PRAGMA quick_check(sqlite_master)"]
        for check in checks:
            findings = connection.execute(check).fetchall()
            if findings != [("ok",)]:
                raise corrupt(self.path, "; ".join(str(finding) for (finding,) in findings))

    # -- records -------------------------------------------------------------------------------------

    async def commit(self, *writes: Write) -> list[Record]:
        """Do all writes or none, as `Store.commit` has it."""
        if not writes:
            return []
        return await self._writer.run(lambda transaction: sqlite_records.apply(transaction, writes))

    def watch(self, *kinds: Kind) -> AbstractAsyncContextManager[ObjectReceiveStream[Event]]:
        """Tell of everything there is and of every change, as `Store.watch` has it; of all kinds when none is given."""
        return self._hub.watch(*kinds)

    async def get(self, key: Key) -> Record | None:
        """Return a record, ended leases included."""
        record = self._hub.get(key)
        if record is not None or key.kind is not Kind.LEASE:
            return record
        return await self._readers.run(lambda connection: sqlite_records.get(connection, key))

    async def ended_leases(
        self, namespace: str, *, limit: int = 0, after: str = "", newest_first: bool = False
    ) -> Sequence[Record]:
        """Return leases that have ended, as `Store.ended_leases` has it; the newest first means by name downwards."""
        return await self._readers.run(
            lambda connection: sqlite_records.ended_leases(
                connection, namespace, limit=limit, after=after, newest_first=newest_first
            )
        )

    async def collect(self, kind: Kind, before: datetime) -> int:
        """Remove leases that ended before a time, little by little, and give their room back; return how many."""
        if kind is not Kind.LEASE:
            raise ValueError(f"only leases are collected, not {kind}")
        return await self._in_chunks(lambda transaction: sqlite_records.collect_chunk(transaction, before))

    async def _in_chunks(self, work: Callable[[Transaction], int]) -> int:
        total = 0
        while removed := await self._writer.run(work):
            total += removed
            await anyio.sleep(_BREATH_SECONDS)
        more = total > 0
        while more:
            more = await self._writer.run(sqlite_records.shrink_chunk)
            await anyio.sleep(_BREATH_SECONDS)
        return total

    # -- audit ---------------------------------------------------------------------------------------

    async def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries to the audit record; they are durable when this returns."""
        if entries:
            await self._writer.run(lambda transaction: sqlite_audit.append(transaction, entries))

    async def audit(
        self,
        *,
        namespace: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        client: str = "",
        exporter: str = "",
        lease: str = "",
        action: str = "",
        limit: int = 100,
        after: int = 0,
        newest_first: bool = False,
    ) -> Sequence[AuditEntry]:
        """Return audit entries, as `Store.audit` has it, ordered by id, from `since` on and before `until`."""
        statement, arguments = sqlite_audit.query(
            namespace=namespace,
            since=since,
            until=until,
            client=client,
            exporter=exporter,
            lease=lease,
            action=action,
            limit=limit,
            after=after,
            newest_first=newest_first,
        )
        return await self._readers.run(lambda connection: sqlite_audit.read(connection, statement, arguments))

    async def collect_audit(self, *, before: datetime | None = None, keep: int = 0) -> int:
        """Remove the oldest entries, those before a time and all but `keep` (0 for no limit); return how many."""
        surplus = await self._readers.run(lambda connection: sqlite_audit.surplus(connection, keep)) if keep else 0
        return await self._in_chunks(lambda transaction: sqlite_audit.collect_chunk(transaction, before, surplus))

    # -- secrets -------------------------------------------------------------------------------------

    async def secrets(self) -> Mapping[str, bytes]:
        """Return the secrets of the server (signing keys), by name."""
        return await self._readers.run(lambda connection: dict(connection.execute("SELECT name, value FROM secret")))

    async def put_secret(self, name: str, value: bytes, *, replace: bool = False) -> bytes:
        """Keep a secret and return it; without `replace` one that is there already wins and is returned."""

        def put(transaction: Transaction) -> bytes:
            conflict = "DO UPDATE SET value = excluded.value" if replace else "DO NOTHING"
            transaction.connection.execute(
                f"INSERT INTO secret (name, value) VALUES (?, ?) ON CONFLICT (name) {conflict}", (name, bytes(value))
            )
            row = transaction.connection.execute("SELECT value FROM secret WHERE name = ?", (name,)).fetchone()
            return bytes(row[0])

        return await self._writer.run(put)

    # -- backups -------------------------------------------------------------------------------------

    async def backup(self, path: Path) -> None:
        """Copy the store as it is now to a new file, check the copy, and only then give it its name.

        Raises:
            StoreError: the file exists, or can't be written, or what was written is damaged.
        """
        await anyio.to_thread.run_sync(sqlite_backup.backup, self.path, Path(path), self._stop)

    async def _back_up(self, every: timedelta) -> None:
        pause = min(_FIRST_BACKUP, every)
        while True:
            await anyio.sleep(pause.total_seconds())
            due = await anyio.to_thread.run_sync(self._due, every)
            if due > timedelta(0):
                pause = min(due, _RETRY_BACKUP)
                continue
            try:
                made = await anyio.to_thread.run_sync(
                    sqlite_backup.automatic_backup, self.path, datetime.now(UTC), self._backups_kept, self._stop
                )
                logger.info("Backed up the store to %s", made)
            except StoreError as error:
                if not self._stop.is_set():
                    logger.error("%s", error)
            pause = min(every, _RETRY_BACKUP)

    def _due(self, every: timedelta) -> timedelta:
        """Return for how long no backup is needed."""
        newest = max((file.stat().st_mtime for file in sqlite_backup.backups(self.path)), default=0.0)
        age = datetime.now(UTC) - datetime.fromtimestamp(newest, UTC)
        # A backup from the future (the clock was wrong) must not put off the next one for ever.
        return every - age if age >= timedelta(0) else timedelta(0)


def restore(source: Path, path: Path) -> list[Path]:
    """Put a backup in the place of a store that nobody uses, see `sqlite_backup.restore`."""
    return sqlite_backup.restore(source, path)
