"""What the SQLite store does beyond the suite of all stores: its files, its writer, its size."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (files are looked at while nothing else runs)
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from ..model.records import Account, AuditEntry, Condition, Key, Kind, Lease, Meta
from .base import Conflict, Create, Store, StoreError, Unavailable
from .sqlite import SQLiteStore, restore
from .sqlite_writer import Transaction

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def opened(path: Path, **options: Any) -> SQLiteStore:
    return SQLiteStore(path, **{"backup_every": None, **options})


def client(name: str, **labels: str) -> Account:
    return Account(kind=Kind.CLIENT, meta=Meta(namespace="lab", name=name, labels=labels))


def key(name: str) -> Key:
    return Key(Kind.CLIENT, "lab", name)


def entry(action: str = "lease.create", *, at: datetime = NOON, **fields: Any) -> AuditEntry:
    return AuditEntry(time=at, namespace="lab", actor_kind="client", actor="anna", action=action, **fields)


async def create(store: Store, *names: str) -> list[Any]:
    return await store.commit(*(Create(client(name)) for name in names))


def relabelled(record: Any, value: str) -> Any:
    return replace(record, meta=replace(record.meta, labels={"value": value}))


async def on_writer(store: SQLiteStore, statement: str) -> None:
    await store._writer.run(lambda transaction: transaction.connection.execute(statement).fetchall())


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options
    )


# -- files -------------------------------------------------------------------------------------------


async def test_folder_and_files_are_for_their_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await create(store, "anna")
            await store.backup(path.with_name("copy.db"))
            files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert files == dict.fromkeys(("lab.db", "lab.db-wal", "lab.db-shm", "lab.db.lock", "copy.db"), 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_others_may_read_is_made_private(path: Path) -> None:
    async with opened(path):
        pass
    path.chmod(0o644)
    async with opened(path) as store:
        await create(store, "anna")
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


async def test_a_folder_that_others_may_write_to_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    async with opened(path):
        pass
    assert f"chmod go-w {path.parent}" in caplog.text
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o777


async def test_a_path_with_signs_that_urls_know_is_fine(tmp_path: Path) -> None:
    async with opened(tmp_path / "a?mode=memory&b#c %20 ü" / "lab.db") as store:
        await create(store, "anna")
    assert (tmp_path / "a?mode=memory&b#c %20 ü" / "lab.db").is_file()


HOLDER = """
import sys, anyio
from pathlib import Path
from jumpstarter_controller.store.sqlite import SQLiteStore
async def main():
    async with SQLiteStore(Path(sys.argv[1])):
        print("open", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def test_a_second_process_is_told_which_one_has_the_store(path: Path) -> None:
    holder = python(HOLDER, path)
    try:
        assert holder.stdout is not None
        assert await anyio.to_thread.run_sync(holder.stdout.readline) == "open\n"
        with pytest.raises(StoreError, match=f"in use by the process {holder.pid}"):
            async with opened(path):
                pytest.fail("two processes have one store")
        with pytest.raises(StoreError, match="in use"):
            restore(path, path)
    finally:
        holder.kill()
        holder.communicate(timeout=10)
    async with opened(path) as store:
        await create(store, "anna")


async def test_a_store_is_not_opened_twice_in_one_process(path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            async with opened(path):
                pytest.fail("the store is open twice")
        await create(store, "anna")


async def test_a_file_that_was_replaced_is_not_written_to(path: Path) -> None:
    async with opened(path) as store:
        await create(store, "anna")
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(Unavailable, match="removed or replaced"):
            await create(store, "bert")
        path.with_name("elsewhere").rename(path)
        await create(store, "bert")
    async with opened(path) as store:
        assert await store.get(key("bert")) is not None


# -- closing, pressure, group commit -----------------------------------------------------------------


@asynccontextmanager
async def held(store: SQLiteStore, tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
    """Keep the writing thread busy while the body runs."""
    begun, release = threading.Event(), threading.Event()

    def wait(transaction: Transaction) -> None:
        begun.set()
        assert release.wait(30)

    tasks.start_soon(store._writer.run, wait)
    assert await anyio.to_thread.run_sync(begun.wait, 30)
    try:
        yield
    finally:
        release.set()


async def test_what_was_begun_is_finished_when_the_store_closes(path: Path) -> None:
    async with anyio.create_task_group() as tasks, opened(path) as store, held(store, tasks):
        for number in range(100):
            tasks.start_soon(create, store, f"c{number}")
        await anyio.wait_all_tasks_blocked()
    assert not path.with_name("lab.db-wal").exists()
    with pytest.raises(StoreError, match="is closed"):
        await create(store, "late")
    with pytest.raises(StoreError, match="is closed"):
        await store.secrets()
    async with opened(path) as store:
        assert all([await store.get(key(f"c{number}")) for number in range(100)])


async def test_a_store_that_is_closed_by_cancellation_is_closed_properly(path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with opened(path, backup_every=timedelta(days=1)) as store:
            await create(store, "anna")
            scope.cancel()
            await anyio.sleep_forever()
    assert not path.with_name("lab.db-wal").exists()
    async with opened(path) as store:
        assert await store.get(key("anna")) is not None


async def test_no_more_than_so_many_commits_wait_in_the_store(path: Path) -> None:
    async with opened(path) as store, anyio.create_task_group() as tasks, held(store, tasks):
        for number in range(3000):
            tasks.start_soon(create, store, f"c{number}")
        await anyio.wait_all_tasks_blocked()
        assert store._writer._jobs.qsize() <= 1024
    assert len(store._hub.snapshot([Kind.CLIENT])) == 3000


async def test_a_cancelled_commit_that_waits_to_be_let_in_does_not_happen(path: Path) -> None:
    async with opened(path) as store, anyio.create_task_group() as tasks, held(store, tasks):
        for number in range(1024):
            tasks.start_soon(create, store, f"c{number}")
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await create(store, "late")
    assert len(store._hub.snapshot([Kind.CLIENT])) == 1024
    async with opened(path) as store:
        assert await store.get(key("late")) is None


async def test_commits_that_wait_become_durable_together(path: Path) -> None:
    statements: list[str] = []
    async with opened(path) as store, anyio.create_task_group() as tasks:
        await store._writer.run(lambda transaction: transaction.connection.set_trace_callback(statements.append))
        statements.clear()
        async with held(store, tasks):
            for number in range(50):
                tasks.start_soon(create, store, f"c{number}")
            await anyio.wait_all_tasks_blocked()
    assert sum(statement.startswith("INSERT INTO record") for statement in statements) == 50
    # One for what held the thread, one for all that waited.
    assert statements.count("COMMIT") == 2


async def test_a_conflict_among_commits_that_are_written_together_concerns_no_other(path: Path) -> None:
    refused: list[str] = []

    async def attempt(store: SQLiteStore, name: str) -> None:
        try:
            await store.commit(Create(client(name)), Create(client("one")))
        except Conflict:
            refused.append(name)

    async with opened(path) as store, anyio.create_task_group() as tasks, held(store, tasks):
        for number in range(10):
            tasks.start_soon(attempt, store, f"c{number}")
        tasks.start_soon(create, store, "anna")
        await anyio.wait_all_tasks_blocked()
    assert len(refused) == 9
    assert len(store._hub.snapshot([Kind.CLIENT])) == 3


# -- size --------------------------------------------------------------------------------------------


def _ended(number: int) -> Lease:
    return Lease(
        meta=Meta(namespace="lab", name=f"l{number:08}", labels={"board": "rpi"}),
        client="anna",
        exporter=f"board-{number % 500}",
        ended=True,
        ended_at=NOON + timedelta(seconds=number),
        conditions=(Condition(type="Ready", status="False", reason="Expired", message="x" * 80, since=NOON),),
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob("lab.db*") if file.is_file())


async def test_the_store_is_as_small_after_100_000_ended_leases_as_after_the_first(path: Path) -> None:
    sizes = []
    async with opened(path) as store:
        for start in range(0, 100_000, 10_000):
            for number in range(start, start + 10_000, 500):
                await store.commit(*(Create(_ended(number + index)) for index in range(500)))
            await store.collect(Kind.LEASE, NOON + timedelta(seconds=start + 5_000))
            sizes.append(_size(path))
        assert len(await store.ended_leases("lab")) == 5_000
        await store.collect(Kind.LEASE, NOON + timedelta(days=10))
        assert len(store._hub._records) == 0
    assert max(sizes) < 2 * sizes[0]
    assert sizes[-1] < 1.5 * sizes[1]
    # What was collected is given back to the disk: an empty store and the room that is kept.
    assert _size(path) < 1.5 * 1024 * 1024
