"""Backups of the SQLite store, the way back, and tables of other versions."""

from __future__ import annotations

# ruff: noqa: ASYNC240 (files are looked at while nothing else runs)
import itertools
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from . import sqlite_backup, sqlite_schema
from .base import Create, StoreError, Update
from .sqlite import restore
from .sqlite_faults_test import damage_page, with_many
from .sqlite_test import NOON, client, create, entry, key, opened, relabelled

# -- versions of the tables --------------------------------------------------------------------------


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


# -- backups -----------------------------------------------------------------------------------------


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
    await with_many(path)
    good = sqlite_backup.automatic_backup(path, NOON, 1)
    damage_page(path)
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
    await with_many(path)
    found = path.read_bytes()
    damaged = tmp_path / "damaged.db"
    shutil.copy(path, damaged)
    damage_page(damaged)
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
