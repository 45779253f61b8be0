"""The audit record of the SQLite store: only ever added to, and found by index."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from . import sqlite_audit
from .base import StoreError
from .sqlite_test import NOON, entry, on_writer, opened


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
