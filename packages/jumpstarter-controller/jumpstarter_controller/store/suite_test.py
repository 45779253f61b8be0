"""What every store of records has to do, whatever it keeps them in."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ObjectReceiveStream
from jumpstarter_testbench.kube.fixtures import Kube

from ..model.records import (
    ENDED_LABEL,
    Account,
    AuditEntry,
    Condition,
    Credential,
    Device,
    Exporter,
    ExporterStatus,
    Key,
    Kind,
    Lease,
    Meta,
    Policy,
    Record,
    Role,
    Rule,
)
from ..model.selector import Requirement, Selector
from .base import Changed, Conflict, Create, Current, Delete, Deleted, Event, Exists, Missing, Restarted, Store, Update

LAB = "lab"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = 10.0


@dataclass(frozen=True)
class Maker:
    """How to make a store for a test."""

    make: Callable[[Path, int], Store]
    """With a folder of its own, and how many changes may wait for a watcher."""
    transactions: bool = True
    """Whether a commit of several writes is all or nothing."""
    keeps: bool = True
    """Whether what was written is there when it is opened again."""
    many: int = 2000
    """How many records are many for it."""


def _sqlite(folder: Path, watch_limit: int) -> Store:
    from .sqlite import SQLiteStore

    return SQLiteStore(folder / "lab.db", watch_limit=watch_limit)


def _memory(folder: Path, watch_limit: int) -> Store:
    made: Store = importlib.import_module(f"{__package__}.memory").MemoryStore(watch_limit=watch_limit)
    return made


_KUBES: dict[Path, Kube] = {}
"""The API servers of the present test, by its folder: a store that is opened again finds the same one."""


def _kubernetes(folder: Path, watch_limit: int) -> Store:
    from .kubernetes import KubernetesStore

    if folder not in _KUBES:
        _KUBES[folder] = Kube(folder / "kube").open()
        for name in (LAB, "other", "elsewhere"):
            _KUBES[folder].namespace(name)
    return KubernetesStore(_KUBES[folder].cluster(LAB), watch_limit=watch_limit)


@pytest.fixture(autouse=True)
def no_kube_is_left() -> Iterator[None]:
    yield
    while _KUBES:
        _KUBES.popitem()[1].close()


MAKERS = {"sqlite": Maker(_sqlite), "kubernetes": Maker(_kubernetes, transactions=False, many=300)}
if importlib.util.find_spec(f"{__package__}.memory"):
    MAKERS["memory"] = Maker(_memory, keeps=False)


@pytest.fixture(params=sorted(MAKERS))
def maker(request: pytest.FixtureRequest) -> Maker:
    return MAKERS[request.param]


@pytest.fixture
async def store(maker: Maker, tmp_path: Path) -> AsyncIterator[Store]:
    async with maker.make(tmp_path, 8192) as store:
        yield store


def client(name: str, **fields: Any) -> Account:
    return Account(kind=Kind.CLIENT, meta=Meta(namespace=LAB, name=name, **fields))


def exporter(name: str) -> Exporter:
    return Exporter(meta=Meta(namespace=LAB, name=name))


def lease(name: str, namespace: str = LAB, **fields: Any) -> Lease:
    return Lease(
        meta=Meta(namespace=namespace, name=name),
        client="anna",
        selector=Selector({"board": "rpi"}),
        duration=timedelta(hours=1),
        **fields,
    )


def over(lease: Lease, at: datetime = NOON) -> Lease:
    labels = {**lease.meta.labels, ENDED_LABEL: "true"}
    return replace(lease, meta=replace(lease.meta, labels=labels), ended=True, ended_at=at)


def past(name: str, at: datetime = NOON, namespace: str = LAB) -> Lease:
    return over(lease(name, namespace, exporter="board"), at)


def relabelled(record: Record, value: str) -> Any:
    kept = {key: text for key, text in record.meta.labels.items() if key == ENDED_LABEL}
    return replace(record, meta=replace(record.meta, labels={**kept, "round": value}))


async def create(store: Store, *records: Record) -> list[Any]:
    return await store.commit(*(Create(record) for record in records))


async def following(stream: ObjectReceiveStream[Event]) -> Event:
    with anyio.fail_after(SECONDS):
        return await stream.receive()


async def everything(stream: ObjectReceiveStream[Event]) -> list[Record]:
    """Return what is told up to `Current`."""
    records = []
    while not isinstance(event := await following(stream), Current):
        assert isinstance(event, Changed)
        records.append(event.record)
    return records


# -- records -----------------------------------------------------------------------------------------

FULL: list[Record] = [
    Account(
        kind=Kind.CLIENT,
        meta=Meta(
            namespace=LAB, name="anna", labels={"team": "a"}, annotations={"note": 'quotes " and ünïcode \U0001f600'}
        ),
        username="dex:anna",
        enabled=False,
        credential=Credential(
            jti="7", expires=NOON.replace(microsecond=123456), former=(("6", NOON), ("5", NOON - timedelta(days=1)))
        ),
    ),
    Account(kind=Kind.ADMIN, meta=Meta(namespace=LAB, name="root")),
    Account(kind=Kind.ROUTER, meta=Meta(namespace=LAB, name="router-1")),
    Exporter(
        meta=Meta(namespace=LAB, name="board", labels={"board": "rpi", "jumpstarter.dev/x": ""}),
        credential=Credential(jti="1"),
        devices=(Device(uuid="1"), Device(uuid="2", parent_uuid="1", labels={"name": "power"})),
        online=True,
        last_seen=NOON,
        status=ExporterStatus.BEFORE_LEASE_HOOK,
        status_message="running",
        lease="l1",
        freed=NOON,
        draining=True,
        via="server-1",
    ),
    Lease(
        meta=Meta(namespace=LAB, name="l1", labels={"metadata.jumpstarter.dev/build": "7"}),
        client="anna",
        selector=Selector({"board": "rpi"}, (Requirement("os", "In", ("linux", "qnx")), Requirement("x", "Exists"))),
        selector_text="board=rpi",
        exporter_name="board",
        duration=timedelta(days=40, seconds=1, microseconds=1),
        begin_time=NOON,
        end_time=NOON + timedelta(days=41),
        tags={"build": "7"},
        context={"job": "x"},
        allow_disabled=True,
        exporter="board",
        begun=NOON,
        conditions=(
            Condition(type="Pending", status="False", reason="Ready", since=NOON),
            Condition(type="Ready", status="True", reason="Ready", message="given", since=NOON),
        ),
        priority=-3,
        shares={"bert": Role.WATCHER, "carl": Role.DRIVER},
        policy="default/all",
        limit=NOON,
        idle_timeout=timedelta(minutes=5),
        extend_by_use=timedelta(milliseconds=1),
    ),
    Policy(
        meta=Meta(namespace=LAB, name="default"),
        exporters=Selector({"board": "rpi"}),
        rules=(
            Rule(description="all", priority=2, clients=(Selector(), Selector({"a": "b"})), maximum_leases=3),
            Rule(maximum_duration=timedelta(hours=8), spot_access=True),
        ),
    ),
]


@pytest.mark.parametrize("record", FULL, ids=lambda record: str(record.key.kind))
async def test_a_record_is_given_back_as_it_was_created(store: Store, record: Record) -> None:
    [created] = await create(store, record)
    found = await store.get(record.key)
    assert found == created
    assert found is not None
    assert replace(found, meta=replace(found.meta, uid="", version="", created=None)) == record


async def test_everything_is_there_when_a_store_is_opened_again(maker: Maker, tmp_path: Path) -> None:
    if not maker.keeps:
        pytest.skip("this store keeps nothing")
    async with maker.make(tmp_path, 8192) as store:
        created = await create(store, *FULL, past("old"))
        await store.put_secret("key", b"\0\xff")
    async with maker.make(tmp_path, 8192) as store:
        assert [await store.get(record.key) for record in created] == created
        assert await store.secrets() == {"key": b"\0\xff"}
        async with store.watch(*Kind) as stream:
            told = await everything(stream)
        assert {str(record.key) for record in told} == {str(record.key) for record in FULL}


async def test_creation_gives_uid_version_and_time(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    first, second = await create(store, client("anna"), client("bert"))
    assert uuid.UUID(first.meta.uid) != uuid.UUID(second.meta.uid)
    assert first.meta.version
    assert before < first.meta.created < before + timedelta(seconds=65)


async def test_creation_of_what_exists_is_refused(store: Store) -> None:
    [first] = await create(store, client("anna"))
    with pytest.raises(Exists, match="namespaces/lab/clients/anna") as refused:
        await create(store, client("anna"))
    assert refused.value.key == first.key
    assert await store.get(first.key) == first


async def test_creation_of_a_lease_that_has_ended_is_refused(store: Store) -> None:
    await create(store, past("l1"))
    with pytest.raises(Exists):
        await create(store, lease("l1"))


async def test_same_names_of_other_kinds_and_namespaces_are_others(store: Store) -> None:
    elsewhere = Account(kind=Kind.CLIENT, meta=Meta(namespace="other", name="x"))
    router = Account(kind=Kind.ROUTER, meta=Meta(namespace=LAB, name="x"))
    created = await create(store, client("x"), exporter("x"), router, elsewhere)
    assert [await store.get(record.key) for record in created] == created


async def test_a_record_that_is_not_there_is_none(store: Store) -> None:
    for kind in Kind:
        assert await store.get(Key(kind, LAB, "nobody")) is None


async def test_an_update_of_the_current_version_gives_a_new_one(store: Store) -> None:
    [first] = await create(store, client("anna"))
    [second] = await store.commit(Update(relabelled(first, "1")))
    assert second.meta.labels == {"round": "1"}
    assert second.meta.version != first.meta.version
    assert (second.meta.uid, second.meta.created) == (first.meta.uid, first.meta.created)
    assert await store.get(first.key) == second


@pytest.mark.parametrize("version", ["former", ""])
async def test_an_update_of_another_version_is_refused(store: Store, version: str) -> None:
    [first] = await create(store, client("anna"))
    [second] = await store.commit(Update(relabelled(first, "1")))
    stale = replace(first, meta=replace(first.meta, version=first.meta.version if version else ""))
    with pytest.raises(Conflict, match="anna") as refused:
        await store.commit(Update(stale))
    assert not isinstance(refused.value, Exists | Missing)
    assert await store.get(first.key) == second


async def test_an_update_of_what_is_not_there_is_refused(store: Store) -> None:
    [first] = await create(store, client("anna"))
    await store.commit(Delete(first.key))
    with pytest.raises(Missing, match="anna"):
        await store.commit(Update(first))


async def test_a_record_that_was_made_anew_is_another(store: Store) -> None:
    [first] = await create(store, client("anna"))
    await store.commit(Delete(first.key))
    [second] = await create(store, client("anna"))
    assert second.meta.uid != first.meta.uid
    with pytest.raises(Conflict):
        await store.commit(Update(first))
    with pytest.raises(Conflict):
        await store.commit(Delete(first.key, first.meta.version))


async def test_deletion_gives_the_last_state(store: Store) -> None:
    [first] = await create(store, client("anna"))
    [second] = await store.commit(Update(relabelled(first, "1")))
    with pytest.raises(Conflict):
        await store.commit(Delete(first.key, first.meta.version))
    assert await store.commit(Delete(first.key, second.meta.version)) == [second]
    assert await store.get(first.key) is None
    with pytest.raises(Missing):
        await store.commit(Delete(first.key))


async def test_no_writes_are_no_commit(store: Store) -> None:
    assert await store.commit() == []


async def test_a_commit_does_all_or_nothing(store: Store, maker: Maker) -> None:
    if not maker.transactions:
        pytest.skip("this store has no transactions")
    anna, bert = await create(store, client("anna"), client("bert"))
    async with store.watch(Kind.CLIENT) as stream:
        await everything(stream)
        with pytest.raises(Exists):
            await store.commit(
                Update(relabelled(anna, "1")), Delete(bert.key), Create(client("carl")), Create(client("anna"))
            )
        assert await store.get(anna.key) == anna
        assert await store.get(bert.key) == bert
        assert await store.get(client("carl").key) is None
        [after] = await store.commit(Update(relabelled(anna, "2")))
        assert await following(stream) == Changed(after)


async def test_a_commit_stops_at_the_first_write_that_conflicts(store: Store) -> None:
    [anna] = await create(store, client("anna"))
    with pytest.raises(Exists):
        await store.commit(Create(client("anna")), Delete(anna.key), Create(client("bert")))
    assert await store.get(anna.key) == anna
    assert await store.get(client("bert").key) is None


async def test_of_many_who_update_one_version_one_wins(store: Store) -> None:
    [anna] = await create(store, client("anna"))
    won: list[str] = []

    async def attempt(name: str) -> None:
        try:
            await store.commit(Update(relabelled(anna, name)))
        except Conflict:
            return
        won.append(name)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(attempt, str(number))
    assert len(won) == 1
    found = await store.get(anna.key)
    assert found is not None
    assert found.meta.labels == {"round": won[0]}


async def test_many_tasks_that_retry_lose_no_update(store: Store) -> None:
    [anna] = await create(store, client("anna"))

    async def count() -> None:
        for _ in range(10):
            while True:
                current = await store.get(anna.key)
                assert current is not None
                try:
                    await store.commit(Update(relabelled(current, str(int(current.meta.labels.get("round", "0")) + 1))))
                except Conflict:
                    continue
                break

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(count)
    found = await store.get(anna.key)
    assert found is not None
    assert found.meta.labels == {"round": "80"}


# -- one exporter, one lease --------------------------------------------------------------------------


async def test_two_leases_never_have_one_exporter(store: Store) -> None:
    board, first, second = await create(store, exporter("board"), lease("l1"), lease("l2"))
    await store.commit(
        Update(replace(board, lease="l1")),
        Update(replace(first, exporter="board")),
    )
    with pytest.raises(Conflict, match="board"):
        # The guard is named with its old version, as by somebody who decided on what is past.
        await store.commit(Update(replace(board, lease="l2")), Update(replace(second, exporter="board")))
    assert await store.get(second.key) == second


async def test_a_second_lease_of_an_exporter_is_refused_even_without_a_guard(store: Store, maker: Maker) -> None:
    if not maker.transactions:
        pytest.skip("this store is guarded by the exporter's record")
    _, second = await create(store, lease("l1", exporter="board"), lease("l2"))
    with pytest.raises(Conflict, match="board"):
        await store.commit(Update(replace(second, exporter="board")))
    with pytest.raises(Conflict, match="board"):
        await create(store, lease("l3", exporter="board"))
    assert await store.get(second.key) == second
    assert await store.get(lease("l3").key) is None


async def test_an_exporter_is_free_for_the_next_lease_when_one_ended(store: Store) -> None:
    board, first, second = await create(store, exporter("board"), lease("l1"), lease("l2"))
    board, first = await store.commit(Update(replace(board, lease="l1")), Update(replace(first, exporter="board")))
    board, first = await store.commit(Update(replace(board, lease="")), Update(over(first)))
    board, second = await store.commit(Update(replace(board, lease="l2")), Update(replace(second, exporter="board")))
    assert (await store.get(first.key), await store.get(second.key)) == (first, second)


async def test_exporters_of_one_name_in_two_namespaces_are_two(store: Store) -> None:
    other = lease("l1", "other", exporter="board")
    assert len(await create(store, lease("l1", exporter="board"), other)) == 2


async def test_of_many_leases_that_want_one_exporter_one_gets_it(store: Store) -> None:
    board, *leases = await create(store, exporter("board"), *(lease(f"l{number}") for number in range(20)))
    won = []

    async def take(wanted: Lease) -> None:
        try:
            await store.commit(
                Update(replace(board, lease=wanted.meta.name)), Update(replace(wanted, exporter="board"))
            )
        except Conflict:
            return
        won.append(wanted.meta.name)

    async with anyio.create_task_group() as tasks:
        for wanted in leases:
            tasks.start_soon(take, wanted)
    states = [await store.get(wanted.key) for wanted in leases]
    assert [state.meta.name for state in states if isinstance(state, Lease) and state.exporter] == won
    assert len(won) == 1


# -- watching -----------------------------------------------------------------------------------------


async def test_a_watch_begins_with_everything_of_its_kinds(store: Store) -> None:
    created = await create(store, client("anna"), exporter("board"), lease("l1"), past("l0"))
    async with store.watch(Kind.EXPORTER, Kind.LEASE) as stream:
        assert {str(record.key) for record in await everything(stream)} == {str(record.key) for record in created[1:3]}


async def test_a_watch_of_nothing_is_current_at_once(store: Store) -> None:
    async with store.watch(Kind.POLICY) as stream:
        assert await following(stream) == Current()


async def test_changes_are_told_in_the_order_of_the_commits(store: Store) -> None:
    async with store.watch(Kind.CLIENT, Kind.LEASE) as stream:
        await everything(stream)
        anna, first = await create(store, client("anna"), lease("l1"))
        [second] = await store.commit(Update(relabelled(anna, "1")))
        await create(store, exporter("board"))
        [ended] = await store.commit(Update(over(first)))
        await store.commit(Delete(anna.key))
        told = [await following(stream) for _ in range(5)]
    assert told == [Changed(anna), Changed(first), Changed(second), Changed(ended), Deleted(second)]


async def test_watchers_have_been_told_when_a_commit_returns(store: Store) -> None:
    async with store.watch(Kind.CLIENT) as stream:
        await everything(stream)
        [anna] = await create(store, client("anna"))
        # What was told is there without waiting for anything.
        with anyio.fail_after(1):
            assert await stream.receive() == Changed(anna)


async def test_nothing_is_lost_between_everything_and_the_changes(store: Store) -> None:
    told: dict[Key, Record] = {}
    ready = anyio.Event()

    async def write() -> None:
        await ready.wait()
        for number in range(100):
            [record] = await create(store, client(f"c{number}"))
            if number % 2:
                await store.commit(Update(relabelled(record, "1")))
            if number % 3 == 0:
                await store.commit(Delete(record.key))
        await create(store, client("last"))

    async def watch() -> None:
        await ready.wait()
        async with store.watch(Kind.CLIENT) as stream:
            while client("last").key not in told:
                event = await following(stream)
                if isinstance(event, Changed):
                    told[event.record.key] = event.record
                elif isinstance(event, Deleted):
                    del told[event.record.key]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        tasks.start_soon(watch)
        ready.set()
    async with store.watch(Kind.CLIENT) as stream:
        assert {record.key: record for record in await everything(stream)} == told


async def test_a_reader_that_lags_is_told_everything_anew(maker: Maker, tmp_path: Path) -> None:
    async with maker.make(tmp_path, 10) as store, store.watch(Kind.CLIENT) as stream:
        await everything(stream)
        [anna, bert] = await create(store, client("anna"), client("bert"))
        for number in range(50):
            [anna] = await store.commit(Update(relabelled(anna, str(number))))
        await store.commit(Delete(bert.key))
        told = [event async for event in _until_quiet(stream, anna)]
        # Either it was told again, or changes of one record were told as one: the last state arrives.
        assert Changed(anna) in told
        if Restarted() in told:
            assert told[told.index(Restarted()) :] == [Restarted(), Changed(anna), Current()]
        [anna] = await store.commit(Update(relabelled(anna, "after")))
        assert await following(stream) == Changed(anna)


async def _until_quiet(stream: ObjectReceiveStream[Event], last: Record) -> AsyncIterator[Event]:
    seen = False
    restarted = False
    while True:
        event = await following(stream)
        yield event
        restarted |= event == Restarted()
        seen |= event == Changed(last)
        if seen and (isinstance(event, Current) if restarted else isinstance(event, Deleted)):
            return


async def test_a_reader_that_lags_while_it_is_told_everything_begins_again(maker: Maker, tmp_path: Path) -> None:
    async with maker.make(tmp_path, 10) as store:
        await create(store, *(client(f"c{number}") for number in range(30)))
        async with store.watch(Kind.CLIENT) as stream:
            assert isinstance(await following(stream), Changed)
            [anna] = await create(store, client("anna"))
            for number in range(50):
                [anna] = await store.commit(Update(relabelled(anna, str(number))))
            told: dict[Key, Record] = {}
            event: Event = Restarted()
            while told.get(anna.key) != anna or not isinstance(event, Current):
                event = await following(stream)
                if isinstance(event, Restarted):
                    told.clear()
                elif isinstance(event, Changed):
                    told[event.record.key] = event.record
            assert len(told) == 31


async def test_a_lagging_reader_holds_up_nobody(maker: Maker, tmp_path: Path) -> None:
    async with maker.make(tmp_path, 10) as store, store.watch(Kind.CLIENT), store.watch(Kind.CLIENT) as quick:
        await everything(quick)
        with anyio.fail_after(60):
            [anna] = await create(store, client("anna"))
            assert await following(quick) == Changed(anna)
            for number in range(200):
                [anna] = await store.commit(Update(relabelled(anna, str(number))))
                assert await following(quick) == Changed(anna)


async def test_all_of_many_watchers_are_told_the_same(store: Store) -> None:
    [anna] = await create(store, client("anna"))
    expected: list[Event] = [Changed(anna), Current()]
    heard: list[list[Event]] = []
    listening = anyio.Event()
    count = itertools.count(1)

    async def listen() -> None:
        async with store.watch(Kind.CLIENT) as stream:
            events = [await following(stream), await following(stream)]
            if next(count) == 200:
                listening.set()
            events.extend([await following(stream) for _ in range(20)])
            heard.append(events)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(listen)
            await listening.wait()
            for number in range(20):
                [anna] = await store.commit(Update(relabelled(anna, str(number))))
                expected.append(Changed(anna))
    assert len(heard) == 200
    assert all(events == expected for events in heard)


async def test_a_closed_watch_is_over(store: Store) -> None:
    async with store.watch(Kind.CLIENT) as stream:
        await everything(stream)
    await create(store, client("anna"))
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()


async def test_watches_end_with_the_store(maker: Maker, tmp_path: Path) -> None:
    told: list[Event] = []
    started = anyio.Event()

    async def listen(store: Store) -> None:
        async with store.watch(Kind.CLIENT) as stream:
            started.set()
            async for event in stream:
                told.append(event)

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks, maker.make(tmp_path, 8192) as store:
            tasks.start_soon(listen, store)
            await started.wait()
            [anna] = await create(store, client("anna"))
    assert told[-1] == Changed(anna)


# -- leases that have ended ---------------------------------------------------------------------------


async def test_a_lease_that_has_ended_can_be_looked_up(store: Store) -> None:
    [first] = await create(store, lease("l1", exporter="board"))
    [ended] = await store.commit(Update(over(first)))
    assert await store.get(ended.key) == ended
    assert list(await store.ended_leases(LAB)) == [ended]
    async with store.watch(Kind.LEASE) as stream:
        assert await everything(stream) == []


async def test_a_lease_that_has_ended_can_be_changed_and_deleted(store: Store) -> None:
    [ended] = await create(store, past("l1"))
    async with store.watch(Kind.LEASE) as stream:
        await everything(stream)
        [changed] = await store.commit(Update(relabelled(ended, "1")))
        with pytest.raises(Conflict):
            await store.commit(Update(ended))
        assert await store.get(ended.key) == changed
        assert await store.commit(Delete(ended.key, changed.meta.version)) == [changed]
        assert [await following(stream), await following(stream)] == [Changed(changed), Deleted(changed)]
    assert await store.get(ended.key) is None


async def test_ended_leases_are_paged_by_name(store: Store) -> None:
    names = [f"l{number:03}" for number in range(25)]
    other = past("l000", namespace="other")
    await create(store, *(past(name) for name in reversed(names)), other, lease("l007-active"))

    async def pages(*, newest_first: bool) -> list[str]:
        found: list[str] = []
        while page := await store.ended_leases(
            LAB, limit=10, after=found[-1] if found else "", newest_first=newest_first
        ):
            assert len(page) <= 10
            found.extend(record.meta.name for record in page)
        return found

    assert await pages(newest_first=False) == names
    assert await pages(newest_first=True) == names[::-1]
    assert [record.meta.name for record in await store.ended_leases(LAB)] == names
    assert await store.ended_leases("nowhere") == []


async def test_collection_removes_the_leases_that_ended_before(store: Store) -> None:
    ends = [NOON + timedelta(hours=number) for number in range(10)]
    running = lease("l-running", begun=NOON - timedelta(days=1))
    await create(store, *(past(f"l{number}", end) for number, end in enumerate(ends)), running)
    assert await store.collect(Kind.LEASE, ends[4]) == 4
    assert [record.meta.name for record in await store.ended_leases(LAB)] == [f"l{number}" for number in range(4, 10)]
    assert await store.get(past("l0").key) is None
    assert await store.get(running.key) is not None
    assert await store.collect(Kind.LEASE, ends[4]) == 0


async def test_collection_of_many_lets_others_work(store: Store, maker: Maker) -> None:
    for number in range(0, maker.many, 100):
        await create(store, *(past(f"l{number + index:05}") for index in range(100)))
    done = anyio.Event()
    meanwhile = 0

    async def collect() -> None:
        assert await store.collect(Kind.LEASE, NOON + timedelta(days=1)) == maker.many
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        while not done.is_set():
            await create(store, client(f"c{meanwhile}"))
            meanwhile += 1
    assert await store.ended_leases(LAB) == []
    # With one long transaction, at most one other comes before it and one waits behind it.
    assert meanwhile > 2


# -- audit --------------------------------------------------------------------------------------------


def entry(number: int, action: str = "lease.create", **fields: Any) -> AuditEntry:
    return AuditEntry(
        time=NOON + timedelta(minutes=number),
        namespace=fields.pop("namespace", LAB),
        actor_kind="client",
        actor="anna",
        action=action,
        **fields,
    )


async def test_audit_entries_are_given_back_as_they_were(store: Store) -> None:
    written = replace(
        entry(
            0, client="anna", exporter="board", lease="l1", peer="10.0.0.1", details={"a": 1, "b": ["x", None], "ü": {}}
        ),
        time=NOON.replace(microsecond=7),
    )
    await store.record_audit([written])
    [found] = await store.audit()
    assert found.id > 0
    assert replace(found, id=0) == written


async def test_audit_entries_come_in_the_order_in_which_they_were_written(store: Store) -> None:
    await store.record_audit([entry(number) for number in range(5)])
    await store.record_audit([entry(2)])
    found = await store.audit()
    ids = [item.id for item in found]
    assert ids == sorted(set(ids))
    assert [item.time.minute for item in found] == [0, 1, 2, 3, 4, 2]
    assert [item.id for item in await store.audit(newest_first=True)] == ids[::-1]


async def test_audit_is_read_in_pages(store: Store) -> None:
    await store.record_audit([entry(number) for number in range(25)])
    everything = [item.id for item in await store.audit()]
    for newest_first in (False, True):
        found: list[int] = []
        while page := await store.audit(limit=10, after=found[-1] if found else 0, newest_first=newest_first):
            assert len(page) <= 10
            found.extend(item.id for item in page)
        assert found == (everything[::-1] if newest_first else everything)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"namespace": "other"}, [5]),
        ({"namespace": LAB, "client": "anna"}, [0, 1]),
        ({"client": "anna"}, [0, 1, 5]),
        ({"exporter": "board"}, [1, 2]),
        ({"lease": "l1"}, [1, 3]),
        ({"lease": "l1", "exporter": "board"}, [1]),
        ({"action": "lease.create"}, [0, 5]),
        ({"action": "lease."}, [0, 1, 5]),
        ({"action": "lease"}, []),
        ({"action": "driver.call."}, [2]),
        ({"action": "driver."}, [2, 3]),
        ({"action": "driver.call"}, [3]),
        ({"since": NOON + timedelta(minutes=2)}, [2, 3, 4, 5]),
        ({"until": NOON + timedelta(minutes=2)}, [0, 1]),
        ({"since": NOON + timedelta(minutes=1), "until": NOON + timedelta(minutes=4), "action": "driver."}, [2, 3]),
        ({"since": NOON + timedelta(days=1)}, []),
        ({"until": NOON}, []),
        ({"client": "nobody' OR 1=1 --"}, []),
        ({"limit": 2, "newest_first": True}, [5, 4]),
        ({"limit": 0}, [0, 1, 2, 3, 4, 5]),
    ],
    ids=str,
)
async def test_audit_entries_are_found_by_what_they_are_about(
    store: Store, question: dict[str, Any], expected: list[int]
) -> None:
    await store.record_audit(
        [
            entry(0, client="anna"),
            entry(1, "lease.end", client="anna", exporter="board", lease="l1"),
            entry(2, "driver.call.on", exporter="board", client="bert"),
            entry(3, "driver.call", lease="l1"),
            entry(4, "leased.x"),
            entry(5, client="anna", namespace="other"),
        ]
    )
    assert [item.time.minute for item in await store.audit(**question)] == expected


async def test_audit_entries_from_before_a_time_are_collected(store: Store) -> None:
    await store.record_audit([entry(number) for number in range(10)])
    assert await store.collect_audit(before=NOON + timedelta(minutes=4)) == 4
    assert [item.time.minute for item in await store.audit()] == [4, 5, 6, 7, 8, 9]


async def test_all_audit_entries_but_the_newest_are_collected(store: Store) -> None:
    await store.record_audit([entry(number) for number in range(10)])
    newest = (await store.audit(newest_first=True))[0].id
    assert await store.collect_audit(keep=3) == 7
    assert [item.time.minute for item in await store.audit()] == [7, 8, 9]
    assert await store.collect_audit(keep=3) == 0
    assert await store.collect_audit(before=NOON + timedelta(minutes=9), keep=2) == 2
    assert await store.collect_audit(before=NOON + timedelta(days=1)) == 1
    await store.record_audit([entry(0)])
    assert (await store.audit())[0].id > newest


async def test_without_a_limit_no_audit_entry_is_collected(store: Store) -> None:
    await store.record_audit([entry(number) for number in range(3)])
    assert await store.collect_audit() == 0
    assert len(await store.audit()) == 3


# -- secrets ------------------------------------------------------------------------------------------


async def test_the_first_secret_of_a_name_wins(store: Store) -> None:
    assert await store.secrets() == {}
    assert await store.put_secret("key", b"first") == b"first"
    assert await store.put_secret("key", b"second") == b"first"
    assert await store.put_secret("other", b"") == b""
    assert await store.secrets() == {"key": b"first", "other": b""}


async def test_all_who_make_a_secret_at_once_get_the_same(store: Store) -> None:
    got: list[bytes] = []

    async def make(number: int) -> None:
        got.append(await store.put_secret("key", str(number).encode()))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(make, number)
    assert len(got) == 20
    assert set(got) == {(await store.secrets())["key"]}


async def test_a_secret_is_replaced_on_demand(store: Store) -> None:
    await store.put_secret("key", b"first")
    assert await store.put_secret("key", b"second", replace=True) == b"second"
    assert await store.secrets() == {"key": b"second"}


# -- closing and cancellation -------------------------------------------------------------------------


async def test_a_cancelled_commit_happens_whole_or_not_at_all(store: Store) -> None:
    pairs = [(client(f"a{number}"), client(f"b{number}")) for number in range(100)]
    async with anyio.create_task_group() as tasks:
        for number, pair in enumerate(pairs):
            tasks.start_soon(create, store, *pair)
            if number == 50:
                # Some are being written by now.
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    # A commit that comes later is behind all of them.
    await create(store, client("last"))
    for pair in pairs:
        first, second = [await store.get(record.key) for record in pair]
        assert (first is None) == (second is None)
    [anna] = await create(store, client("anna"))
    assert await store.get(anna.key) == anna
