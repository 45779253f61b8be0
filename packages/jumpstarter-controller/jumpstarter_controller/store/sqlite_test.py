"""What the SQLite store does beyond the suite of all stores: its files, faults of the disk, crashes, backups."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (files are looked at while nothing else runs)
import itertools
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..model.records import Account, AuditEntry, Condition, Key, Kind, Lease, Meta
from . import sqlite_audit, sqlite_backup, sqlite_schema
from .base import Changed, Conflict, Create, Current, Store, StoreError, Unavailable, Update
from .codec import decode, encode, to_number, to_time
from .sqlite import SQLiteStore, restore
from .sqlite_writer import Transaction

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "lab.db"


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


# -- files --------------------------------------------------------------------------------------------


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


# -- closing, pressure, group commit --------------------------------------------------------------------


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


# -- crashes --------------------------------------------------------------------------------------------

STORM = """
import sys, anyio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from jumpstarter_controller.model.records import Account, AuditEntry, Kind, Meta
from jumpstarter_controller.store.base import Create, Update
from jumpstarter_controller.store.sqlite import SQLiteStore
from datetime import UTC, datetime

def labelled(record, value):
    return replace(record, meta=replace(record.meta, labels={"value": str(value)}))

async def storm(store, name):
    records = [Account(kind=Kind.CLIENT, meta=Meta(namespace="lab", name=f"{name}-{side}")) for side in "ab"]
    pair = await store.commit(*(Create(labelled(record, 0)) for record in records))
    value = 0
    while True:
        value += 1
        pair = await store.commit(*(Update(labelled(record, value)) for record in pair))
        entry = AuditEntry(
            time=datetime.now(UTC), namespace="lab", actor_kind="client", actor=name, action="storm.blow", client=name,
            details={"value": value},
        )
        await store.record_audit([entry, entry])
        sys.stdout.write(f"{name} {value}\\n")
        sys.stdout.flush()

async def main():
    async with SQLiteStore(Path(sys.argv[1])) as store, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(storm, store, f"{sys.argv[2]}{number}")

anyio.run(main)
"""


async def test_after_a_kill_every_acknowledged_commit_is_there_and_nothing_half(path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    for round_ in range(6):
        process = python(STORM, path, f"r{round_}-")
        assert process.stdout is not None
        lines = 0
        # Killed after a random number of acknowledgements, at a moment of the writer that nobody chose.
        until = chance.randrange(1, 400)
        while lines < until:
            name, value = (await anyio.to_thread.run_sync(process.stdout.readline)).split()
            acknowledged[name] = int(value)
            lines += 1
        threading.Event().wait(chance.random() * 0.005)
        process.kill()
        rest, _ = process.communicate(timeout=10)
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                name, value = line.split()
                acknowledged[name] = int(value)
        if chance.random() < 0.5 and path.with_name("lab.db-wal").exists():
            # A write to the log that was torn by a loss of power: garbage behind what is whole.
            with path.with_name("lab.db-wal").open("ab") as log:
                log.write(chance.randbytes(chance.randrange(1, 9000)))
        async with opened(path) as store:
            for name, value in acknowledged.items():
                first, second = [await store.get(key(f"{name}-{side}")) for side in "ab"]
                assert first is not None, seed
                assert second is not None, seed
                assert first.meta.labels == second.meta.labels, seed
                assert int(first.meta.labels["value"]) >= value, seed
                entries = await store.audit(client=name, limit=0)
                told = [item.details["value"] for item in entries]
                assert told == [number for number in range(1, len(told) // 2 + 1) for _ in "ab"], seed
                assert len(told) // 2 >= value, seed
        sqlite_backup.verify(path)


async def test_versions_grow_over_restarts(path: Path) -> None:
    seen = []
    for _ in range(3):
        async with opened(path) as store:
            [record] = await create(store, "anna")
            seen.append(int(record.meta.version))
            await store.commit(Update(record))
            await on_writer(store, "DELETE FROM record")
    assert seen == sorted(set(seen))


# -- faults of the disk ---------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str = "2m", options: str = "") -> Iterator[Path]:
    """Mount a file system of a size."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux can mount a small file system; run the tests as root in a container")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700{options}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        timeout=10,
    )
    if mounted.returncode:
        if os.environ.get("JMP_REQUIRE_REAL") == "1":
            pytest.fail(f"tmpfs can't be mounted: {mounted.stderr}")
        pytest.skip(f"tmpfs can't be mounted: {mounted.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True, timeout=10)


async def refusal(attempt: Awaitable[object]) -> str | None:
    """Return what an attempt is refused with for want of room."""
    try:
        await attempt
    except Unavailable as error:
        return str(error)
    return None


def fill(folder: Path) -> Path:
    """Take all the room that there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "lab.db"
        async with opened(path) as store, store.watch(Kind.CLIENT) as stream:
            [anna] = await create(store, "anna")
            filler = fill(disk)
            accepted, refused = -1, None
            with anyio.fail_after(60):
                while refused is None:
                    accepted += 1
                    refused = await refusal(create(store, f"c{accepted:03}{'x' * 3000}"))
            assert "the disk is full: free space" in refused
            # What is there can be read, and it is told again and again.
            assert await store.get(key("anna")) == anna
            assert await store.audit() == []
            with pytest.raises(Unavailable, match="full"):
                await store.commit(Update(relabelled(anna, "x" * 100_000)))
            filler.unlink()
            [anna] = await store.commit(Update(relabelled(anna, "after")))
            told = [await stream.receive() for _ in range(accepted + 3)]
            assert told[0] == Current()
            assert told[-1] == Changed(anna)
        async with opened(path) as store:
            assert len(store._hub.snapshot([Kind.CLIENT])) == 1 + accepted
            assert await store.get(key("anna")) == anna


async def test_a_store_is_not_opened_on_a_full_disk_but_is_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        with pytest.raises(Unavailable, match=r"can't be opened|does not work"):
            async with opened(disk / "lab.db"):
                pytest.fail("there is no room")
        filler.unlink()
        async with opened(disk / "lab.db") as store:
            await create(store, "anna")
        filler = fill(disk)
        with pytest.raises(Unavailable, match=r"can't be opened|does not work"):
            async with opened(disk / "lab.db"):
                pytest.fail("there is no room")
        filler.unlink()
        async with opened(disk / "lab.db") as store:
            assert await store.get(key("anna")) is not None


async def test_a_store_on_a_read_only_file_system_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(disk / "lab.db") as store:
            await create(store, "anna")
        remount(disk, "ro")
        with pytest.raises(Unavailable, match="Read-only file system"):
            async with opened(disk / "lab.db"):
                pytest.fail("it can't be written")
        remount(disk, "rw")
        async with opened(disk / "lab.db") as store:
            assert await store.get(key("anna")) is not None


async def test_no_backup_takes_the_room_that_the_store_needs(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(disk / "lab.db") as store:
            await create(store, "anna")
            filler = fill(disk)
            with pytest.raises(Unavailable, match="Free 1 MiB"):
                sqlite_backup.automatic_backup(store.path, NOON, 3)
            with pytest.raises(Unavailable, match=r"copy\.db.*full"):
                await store.backup(disk / "copy.db")
            filler.unlink()
            assert [file.name for file in disk.iterdir() if "copy" in file.name] == []
            await create(store, "bert")


async def test_a_limit_of_the_database_is_told_and_survived(path: Path) -> None:
    async with opened(path) as store:
        [anna] = await create(store, "anna")
        await on_writer(store, "PRAGMA max_page_count=1")
        results: list[str] = []

        async def attempt(number: int) -> None:
            try:
                await store.commit(Create(client(f"c{number}", x="y" * 20_000)), Create(client("one")))
            except StoreError as error:
                results.append(type(error).__name__)

        async with anyio.create_task_group() as tasks, held(store, tasks):
            for number in range(5):
                tasks.start_soon(attempt, number)
            await anyio.wait_all_tasks_blocked()
        # None of them is told of a conflict with one that was taken back.
        assert results == ["Unavailable"] * 5
        await on_writer(store, "PRAGMA max_page_count=1000000")
        await store.commit(Update(relabelled(anna, "after")))
        assert len(store._hub.snapshot([Kind.CLIENT])) == 1


async def test_a_lock_of_another_program_is_told_and_survived(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jumpstarter_controller.store.sqlite_files._BUSY_SECONDS", 0.1)
    async with opened(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="another program has locked it"):
                await create(store, "anna")
        await create(store, "anna")


# -- damage -----------------------------------------------------------------------------------------------


async def _with_many(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(*(Create(client(f"c{number}", x="y" * 500)) for number in range(500)))


def _damage_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xaa" * 4096 * 10)


def _damage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_damage_page, _damage_header, _cut])
async def test_a_damaged_store_is_left_as_it_is_and_the_way_out_is_told(
    path: Path, damage: Callable[[Path], None]
) -> None:
    await _with_many(path)
    damage(path)
    with pytest.raises(StoreError, match="there is none") as without:
        async with opened(path):
            pytest.fail("it is damaged")
    assert not isinstance(without.value, Unavailable)
    found = path.read_bytes()
    made = sqlite_backup.folder(path) / "20260301T120000Z.db"
    made.parent.mkdir()
    made.touch()
    with pytest.raises(StoreError, match="is damaged") as told:
        async with opened(path):
            pytest.fail("it is damaged")
    assert str(made) in str(told.value)
    assert path.read_bytes() == found


async def test_in_a_large_store_damage_of_what_is_needed_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await _with_many(path)
    monkeypatch.setattr("jumpstarter_controller.store.sqlite._LARGE", 1)
    async with opened(path):
        pass
    _damage_page(path)
    with pytest.raises(StoreError, match="is damaged"):
        async with opened(path):
            pytest.fail("it is damaged")


async def test_damage_that_appears_later_is_told_by_whoever_meets_it(path: Path) -> None:
    async with opened(path) as store:
        await store.record_audit([entry(details={"x": "y" * 500}) for _ in range(5000)])
        await on_writer(store, "SELECT 1")
        await store.backup(path.with_name("whole.db"))
    size = path.stat().st_size // 4096
    async with opened(path) as store:
        with path.open("r+b") as file:
            for page in range(size // 2, size):
                file.seek(4096 * page)
                file.write(b"\xaa" * 4096)
        with pytest.raises(StoreError, match="is damaged") as told:
            await store.audit(limit=0)
        assert not isinstance(told.value, Unavailable)
        with pytest.raises(StoreError, match="damaged"):
            await store.backup(path.with_name("copy.db"))
        assert not path.with_name("copy.db").exists()


async def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (name)")
        other.commit()
    found = path.read_bytes()
    with pytest.raises(StoreError, match="not the store of a lab"):
        async with opened(path):
            pytest.fail("it is not ours")
    assert path.read_bytes() == found


async def test_a_record_that_is_not_understood_is_named(path: Path) -> None:
    async with opened(path) as store:
        await create(store, "anna")
        await on_writer(store, "UPDATE record SET document = '{}'")
    with pytest.raises(StoreError, match="namespaces/lab/clients/anna"):
        async with opened(path):
            pytest.fail("it can't be read")


# -- versions of the tables -------------------------------------------------------------------------------


def _add_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE secret ADD COLUMN note TEXT NOT NULL DEFAULT 'migrated'")


def _fail(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE record")
    raise StoreError("this step fails")


async def test_tables_of_an_older_version_are_brought_up_to_date(path: Path) -> None:
    async with opened(path) as store:
        [anna] = await create(store, "anna")
        await store.put_secret("key", b"value")
    newer = (*sqlite_schema.MIGRATIONS, _add_column)
    async with opened(path, migrations=newer) as store:
        assert await store.get(anna.key) == anna
        await store.commit(Update(relabelled(anna, "1")))
        assert await store._readers.run(lambda connection: connection.execute("SELECT * FROM secret").fetchall()) == [
            ("key", b"value", "migrated")
        ]
    async with opened(path, migrations=newer):
        pass
    # As it was before is kept, for the way back.
    [kept] = sqlite_backup.folder(path).iterdir()
    assert kept.name == f"before-version-{len(newer)}.db"
    restore(kept, path)
    async with opened(path) as store:
        assert await store.get(anna.key) == anna


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    async with opened(path) as store:
        [anna] = await create(store, "anna")
    with pytest.raises(StoreError, match="this step fails"):
        async with opened(path, migrations=(*sqlite_schema.MIGRATIONS, _add_column, _fail)):
            pytest.fail("it can't be migrated")
    async with opened(path) as store:
        assert await store.get(anna.key) == anna
        await store.commit(Update(relabelled(anna, "1")))


async def test_tables_of_a_newer_version_are_refused(path: Path) -> None:
    async with opened(path, migrations=(*sqlite_schema.MIGRATIONS, _add_column)):
        pass
    found = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer version of this program.*Update the program"):
        async with opened(path):
            pytest.fail("it is of a newer version")
    assert path.read_bytes() == found


async def test_a_store_whose_making_was_interrupted_is_made(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    async with opened(path) as store:
        await create(store, "anna")


# -- backups ----------------------------------------------------------------------------------------------


async def test_a_backup_is_of_one_moment_while_others_write(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        pair = await store.commit(*(Create(client(name, x="y" * 100_000)) for name in ("a", "b")))
        done = False

        async def write() -> None:
            nonlocal pair
            for number in itertools.count():
                pair = await store.commit(*(Update(relabelled(record, str(number))) for record in pair))
                if done:
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            for number in range(3):
                await store.backup(tmp_path / f"{number}.db")
            done = True
    for number in range(3):
        async with opened(tmp_path / f"{number}.db") as copy:
            first, second = await copy.get(key("a")), await copy.get(key("b"))
            assert first is not None
            assert second is not None
            assert first.meta.labels == second.meta.labels


async def test_a_backup_replaces_no_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    async with opened(path) as store:
        with pytest.raises(StoreError, match="already exists"):
            await store.backup(tmp_path / "precious")
        with pytest.raises(StoreError, match="No such file"):
            await store.backup(tmp_path / "missing" / "copy.db")
    assert (tmp_path / "precious").read_text() == "x"


async def test_backups_are_made_by_themselves_and_the_newest_are_kept(path: Path) -> None:
    folder = sqlite_backup.folder(path)
    folder.mkdir(parents=True)
    old = [folder / f"2020010{day}T000000Z.db" for day in range(1, 6)]
    for file in old:
        file.touch()
        os.utime(file, (0, 0))
    (folder / "mine.db").touch()
    async with opened(path, backup_every=timedelta(milliseconds=10), backups_kept=3) as store:
        await create(store, "anna")
        with anyio.fail_after(30):
            while old[2].exists():  # noqa: ASYNC110 (nobody is told of a backup)
                await anyio.sleep(0.01)
    kept = sqlite_backup.backups(path)
    assert len(kept) == 3
    assert (folder / "mine.db").exists()
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept[-1:]} == {0o600}
    async with opened(kept[-1]) as copy:
        assert await copy.get(key("anna")) is not None


async def test_no_backup_is_made_before_it_is_due(path: Path) -> None:
    store = opened(path, backup_every=timedelta(days=1))
    async with store:
        made = sqlite_backup.automatic_backup(path, datetime.now(UTC), 3)
        assert timedelta(hours=23) < store._due(timedelta(days=1)) <= timedelta(days=1)
        os.utime(made, (0, 0))
        assert store._due(timedelta(days=1)) < timedelta(0)
        # The clock was wrong once.
        os.utime(made, (2**33, 2**33))
        assert store._due(timedelta(days=1)) == timedelta(0)


async def test_a_backup_of_a_damaged_store_takes_no_older_one_away(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await _with_many(path)
    good = sqlite_backup.automatic_backup(path, NOON, 1)
    _damage_page(path)
    with pytest.raises(StoreError):
        sqlite_backup.automatic_backup(path, NOON + timedelta(days=1), 1)
    assert sqlite_backup.backups(path) == [good]
    assert list(good.parent.iterdir()) == [good]


async def test_a_backup_that_fails_is_logged_and_the_store_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    sqlite_backup.folder(path).write_text("a file where the folder should be")
    async with opened(path, backup_every=timedelta(milliseconds=1)) as store:
        with anyio.fail_after(30):
            while "could not be made" not in caplog.text:  # noqa: ASYNC110 (nobody is told of a backup)
                await anyio.sleep(0.01)
        await create(store, "anna")


async def test_a_restored_store_is_as_it_was_at_the_backup(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        [anna] = await create(store, "anna")
        await store.backup(tmp_path / "copy.db")
        await create(store, "bert")
        # As after a crash: a log lies next to the database.
        for name in ("lab.db", "lab.db-wal", "lab.db-shm"):
            shutil.copy(path.with_name(name), tmp_path / name)
    for name in ("lab.db", "lab.db-wal", "lab.db-shm"):
        shutil.copy(tmp_path / name, path.with_name(name))
    aside = restore(tmp_path / "copy.db", path)
    assert len(aside) == 3
    assert all(file.exists() for file in aside)
    async with opened(path) as store:
        assert await store.get(anna.key) == anna
        assert await store.get(key("bert")) is None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_only_a_whole_backup_of_a_store_is_restored(path: Path, tmp_path: Path) -> None:
    await _with_many(path)
    found = path.read_bytes()
    damaged = tmp_path / "damaged.db"
    shutil.copy(path, damaged)
    _damage_page(damaged)
    foreign = tmp_path / "songs.db"
    with closing(sqlite3.connect(foreign)) as other:
        other.execute("CREATE TABLE songs (name)")
        other.commit()
    for source, message in (
        (damaged, "damaged"),
        (foreign, "not the store of a lab"),
        (tmp_path / "none", "no backup"),
    ):
        with pytest.raises(StoreError, match=message):
            restore(source, path)
    assert path.read_bytes() == found


async def test_closing_does_not_wait_for_a_long_backup(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await store.record_audit([entry(details={"x": "y" * 1000}) for _ in range(5000)])
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreError, match="given up"):
        sqlite_backup.backup(path, tmp_path / "copy.db", stop)
    assert list(tmp_path.glob("*copy*")) == []


# -- audit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 1",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit",
    ],
)
async def test_audit_entries_can_neither_be_changed_nor_removed(path: Path, statement: str) -> None:
    async with opened(path) as store:
        await store.record_audit([entry(), entry()])
        found = await store.audit()
        with pytest.raises(StoreError, match="audit entries are"):
            await on_writer(store, statement)
        assert await store.audit() == found
    with closing(sqlite3.connect(path)) as tool, pytest.raises(sqlite3.IntegrityError, match="audit entries are"):
        tool.execute(statement)


async def test_after_a_collection_entries_are_protected_again(path: Path) -> None:
    async with opened(path) as store:
        await store.record_audit([entry() for _ in range(5)])
        assert await store.collect_audit(keep=2) == 3
        with pytest.raises(StoreError, match="audit entries are"):
            await on_writer(store, "DELETE FROM audit")
        assert len(await store.audit()) == 2


@pytest.mark.parametrize(
    "question",
    [
        {"client": "c"},
        {"exporter": "e"},
        {"lease": "l"},
        {"action": "lease."},
        {"action": "lease.create"},
        {"namespace": "lab"},
        {"namespace": "lab", "client": "c"},
        {},
        {"since": NOON},
        {"until": NOON},
        {"since": NOON, "until": NOON, "lease": "l"},
    ],
    ids=str,
)
@pytest.mark.parametrize("newest_first", [False, True])
async def test_questions_to_the_audit_record_use_its_indexes(
    path: Path, question: dict[str, Any], newest_first: bool
) -> None:
    common: dict[str, Any] = {"namespace": "", "client": "", "exporter": "", "lease": "", "action": ""}
    statement, arguments = sqlite_audit.query(
        **{**common, "since": None, "until": None, "limit": 9, "after": 0, "newest_first": newest_first, **question}
    )
    async with opened(path) as store:
        plan = await store._readers.run(
            lambda connection: [
                row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", arguments).fetchall()
            ]
        )
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
    if question:
        assert not [step for step in plan if step.startswith("SCAN")], plan


async def test_details_that_json_does_not_know_become_text(path: Path) -> None:
    async with opened(path) as store:
        await store.record_audit([entry(details={"at": NOON, "lone": "\ud800"})])
        [found] = await store.audit()
    assert found.details == {"at": str(NOON), "lone": "\ud800"}


# -- size -------------------------------------------------------------------------------------------------


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


# -- conversion -------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    time=st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
    duration=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)),
    text=st.text(st.characters(exclude_categories=("Cs",))),
)
def test_times_durations_and_texts_survive(time: datetime, duration: timedelta, text: str) -> None:
    lease = Lease(
        meta=Meta(namespace="lab", name="x", annotations={text: text}), client="a", duration=duration, begun=time
    )
    assert decode(Kind.LEASE, encode(lease)) == lease
    assert to_time(to_number(time)) == time
