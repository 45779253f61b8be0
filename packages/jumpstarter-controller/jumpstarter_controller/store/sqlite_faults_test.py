"""What becomes of the SQLite store in a crash, on a full or read-only disk, and when its file is damaged."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (files are looked at while nothing else runs)
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from ..model.records import Kind
from . import sqlite_backup
from .base import Changed, Create, Current, StoreError, Unavailable, Update
from .sqlite_test import NOON, client, create, entry, held, key, on_writer, opened, python, relabelled

# -- crashes -----------------------------------------------------------------------------------------

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


# -- faults of the disk ------------------------------------------------------------------------------


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


# -- damage ------------------------------------------------------------------------------------------


async def with_many(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(*(Create(client(f"c{number}", x="y" * 500)) for number in range(500)))


def damage_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xaa" * 4096 * 10)


def damage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_page, damage_header, _cut])
async def test_a_damaged_store_is_left_as_it_is_and_the_way_out_is_told(
    path: Path, damage: Callable[[Path], None]
) -> None:
    await with_many(path)
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
    await with_many(path)
    monkeypatch.setattr("jumpstarter_controller.store.sqlite._LARGE", 1)
    async with opened(path):
        pass
    damage_page(path)
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
