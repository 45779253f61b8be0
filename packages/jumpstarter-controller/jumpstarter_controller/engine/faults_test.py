"""What the lab does when its store fails, when it dies in the middle of something, and when all happens at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..errors import Code, Refused
from ..lab import LeaseChange
from ..model.lease import State, state
from ..model.records import Exporter, ExporterStatus, Kind, Lease
from ..store.memory import MemoryStore
from .simulation import HOUR, NAMESPACE, SECOND, Simulation, last

MINUTE = timedelta(minutes=1)


async def test_requests_are_refused_in_clear_words_while_the_store_is_away(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    lab.store.away = True
    for attempt in (
        lab.lease("bob"),
        lab.release(lease),
        lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(duration=2 * HOUR)),
        lab.report("a", ExporterStatus.LEASE_READY),
        lab.clients("dave"),
    ):
        with pytest.raises(Refused, match=r"can't keep records at present: the disk is full\. Leases that run") as at:
            await attempt
        assert (at.value.code, at.value.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert lab.lab.active_lease(lease.key) is not None
    lab.store.mend()
    assert (await lab.release(lease)).ended


async def test_leases_that_expire_while_the_store_is_away_end_once_when_it_is_back(lab: Simulation) -> None:
    for name in "abc":
        await lab.exporter(name)
    leases = [await lab.lease("alice") for _ in range(3)]
    waiting = await lab.lease("bob", duration=5 * HOUR)
    lab.store.away = True
    await lab.advance(2 * HOUR)
    assert all(lab.lab.active_lease(lease.key) is not None for lease in leases)
    lab.store.mend()
    await lab.advance(timedelta(seconds=11))
    assert all([(await lab.now(lease)).ended for lease in leases])
    assert (await lab.now(waiting)).exporter
    ends = [entry.lease for entry in await lab.audited("lease.end")]
    assert sorted(ends) == sorted(lease.meta.name for lease in leases)


async def test_use_while_the_store_is_away_counts_when_it_is_back(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR, extend_by_use=HOUR, maximum_use=9 * HOUR))
    lease = await lab.lease("alice")
    lab.store.away = True
    for _ in range(6):
        await lab.advance(HOUR / 3)
        await lab.lab.used(lab.exporter_actor("a"), lease.key, in_use=True)
    lab.store.mend()
    await lab.advance(timedelta(seconds=11))
    now = await lab.now(lease)
    assert not now.ended
    assert now.duration is not None
    assert now.duration > 2 * HOUR


async def test_exporters_that_come_while_the_store_is_away_are_online_when_it_is_back(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.cut("a")
    await lab.advance(MINUTE)
    lab.store.away = True
    lab.connect("a")
    await lab.advance(MINUTE)
    assert not lab.board("a").online
    lab.store.mend()
    await lab.advance(timedelta(seconds=11))
    assert lab.board("a").online


async def test_a_cancelled_request_leaves_nothing_half_done(lab: Simulation) -> None:
    await lab.exporter("a")
    for turns in range(8):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lab.lease, "alice")
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        await lab.settle()
        lab.check()
        for lease in await lab.lab.leases(NAMESPACE):
            await lab.release(lease)
    assert (await lab.lease("bob")).exporter == "a"


async def test_a_change_by_another_program_is_noticed_and_decided_upon_anew(lab: Simulation) -> None:
    await lab.exporter("a")
    lease, waiting = await lab.lease("alice"), await lab.lease("bob")
    # Another program writes between the look and the commit: the first attempt conflicts.
    original = lab.store.commit
    disturbed = False

    async def commit(*writes: object) -> object:
        nonlocal disturbed
        if not disturbed:
            disturbed = True
            await MemoryStore.commit(lab.store, *[_touch(lab.board("a"))])
        return await original(*writes)  # type: ignore[arg-type]

    lab.store.commit = commit  # type: ignore[method-assign, assignment]
    await lab.release(lease)
    assert disturbed
    assert lab.board("a").status_message == "touched"
    assert (await lab.now(waiting)).exporter == "a"


def _touch(exporter: Exporter):  # type: ignore[no-untyped-def]
    from ..store.base import Update

    return Update(replace(exporter, status_message="touched"))


async def test_a_store_that_can_not_be_written_at_the_start_lets_leases_go_on() -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice")
        await lab.exporter("a")
        expired = await lab.lease("alice")
    lab.clock.advance(2 * HOUR)
    again = lab.restarted()
    again.store.away = True
    with anyio.fail_after(30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jumpstarter_controller.lab._START_SECONDS", 0.05)
            async with again.running():
                assert again.lab.active_lease(expired.key) is not None
                again.store.mend()
                await again.advance(timedelta(seconds=11))
                assert last(await again.now(expired)) == ("Ready", "False", "Expired")


@pytest.mark.parametrize("step", ["assign", "release", "create", "delete"])
@pytest.mark.parametrize("writes", [0, 1])
async def test_what_died_between_two_writes_is_mended_at_the_start(step: str, writes: int) -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice", "bob")
        await lab.exporter("a")
        first = await lab.lease("alice") if step != "create" else None
        waiting = await lab.lease("bob") if first is not None else None
        lab.store.die_after = writes if step in ("create", "delete", "release") else 2 + writes
        with suppress(Refused):
            if step == "create":
                await lab.lease("bob")
            elif step == "delete":
                await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, "a"))
            else:
                assert first is not None
                await lab.release(first)
    lab.store.mend()
    again = lab.restarted()
    async with again.running():
        again.check()
        if again.lab.account(again.key(Kind.EXPORTER, "a")) is not None:
            again.connect("a")
        await again.settle()
        again.check()
        if waiting is not None and step in ("assign", "release"):
            served = [lease for lease in await again.lab.leases(NAMESPACE) if lease.exporter]
            assert len(served) == 1


async def test_an_end_that_died_half_way_is_carried_on_by_the_same_server(lab: Simulation) -> None:
    await lab.exporter("a")
    lease, waiting = await lab.lease("alice"), await lab.lease("bob")
    lab.store.die_after = 1
    with pytest.raises(Refused, match="disk is full"):
        await lab.release(lease)
    await lab.settle()
    lab.store.mend()
    await lab.advance(timedelta(seconds=6))
    assert (await lab.now(lease)).ended
    with anyio.fail_after(5):
        async with lab.lab.follow(waiting.key) as moments:
            async for _ in moments:
                if (await lab.now(waiting)).exporter == "a":
                    break


# -- all at once -------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["alice", "bob"]), st.sampled_from(["board=x", "board=y", "board"])),
    st.tuples(st.just("schedule"), st.sampled_from(["alice", "bob"]), st.integers(1, 5)),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("extend"), st.integers(0, 9)),
    st.tuples(st.just("hand over"), st.integers(0, 9)),
    st.tuples(st.just("report"), st.sampled_from(["a", "b", "c"]), st.sampled_from(list(ExporterStatus))),
    st.tuples(st.just("report"), st.sampled_from(["a", "b", "c"]), st.just(ExporterStatus.AVAILABLE)),
    st.tuples(st.just("finish"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("restart exporter"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("cut"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("delete"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("pass"), st.sampled_from([1, 20, 600, 4000])),
    st.tuples(st.just("fail"), st.integers(0, 4)),
    st.tuples(st.just("mend")),
    st.tuples(st.just("crash")),
)


class Story:
    """Lives through steps, with a look at the books after each."""

    def __init__(self) -> None:
        self.lab = Simulation()
        self.connected: set[str] = set()
        self.ended: dict[str, Lease] = {}
        self.names: list[str] = []

    async def live(self, steps: list[tuple[object, ...]]) -> None:
        async with self.lab.running():
            await self.lab.clients("alice", "bob")
            for name, board in (("a", "x"), ("b", "x"), ("c", "y")):
                await self.lab.exporter(name, board=board)
                self.connected.add(name)
        while steps:
            self.lab = self.lab.restarted()
            self.lab.store.mend()
            async with self.lab.running():
                for name in list(self.connected):
                    if self.lab.lab.account(self.lab.key(Kind.EXPORTER, name)) is not None:
                        self.lab.connect(name)
                await self.lab.settle()
                await self.look()
                while steps:
                    step, *arguments = steps.pop(0)
                    if step == "crash":
                        break
                    with suppress(Refused):
                        await self.do(str(step), arguments)
                    await self.lab.settle()
                    await self.look()
        self.lab = self.lab.restarted()
        self.lab.store.mend()
        async with self.lab.running():
            await self.lab.settle()
            await self.look()

    async def do(self, step: str, arguments: list[object]) -> None:  # noqa: C901 - one case for each step
        lab = self.lab
        match step, arguments:
            case "ask", [str(client), str(selector)]:
                await self.ask(client, selector=selector)
            case "schedule", [str(client), int(count)]:
                await self.ask(client, begin_time=lab.clock.now() + count * MINUTE)
            case "release", [int(which)] if lease := await self.pick(which):
                await lab.release(lease)
            case "extend", [int(which)] if lease := await self.pick(which):
                await lab.lab.update_lease(lab.admin, lease.key, LeaseChange(duration=2 * HOUR))
            case "hand over", [int(which)] if lease := await self.pick(which):
                await lab.lab.update_lease(lab.admin, lease.key, LeaseChange(client="bob"))
            case "report", [str(name), ExporterStatus() as status]:
                await lab.report(name, status)
            case "finish", [str(name)]:
                await lab.report(name, ExporterStatus.AVAILABLE, release=True)
            case "restart exporter", [str(name)]:
                await lab.start(name)
                self.connected.add(name)
            case "cut", [str(name)] if name in lab._streams:
                await lab.cut(name)
                self.connected.discard(name)
            case "delete", [str(name)]:
                await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, name))
            case "pass", [int(seconds)]:
                await lab.advance(timedelta(seconds=seconds))
            case "fail", [int(writes)]:
                lab.store.die_after = writes
            case "mend", []:
                lab.store.mend()
                await lab.advance(timedelta(seconds=11))

    async def ask(self, client: str, **request: object) -> None:
        name = f"lease-{len(self.names):05}"
        self.names.append(name)
        await self.lab.lease(client, name=name, **request)

    async def pick(self, which: int) -> Lease | None:
        names = self.names[-10:]
        if which >= len(names):
            return None
        return await self.lab.lab.lease(self.lab.key(Kind.LEASE, names[which]))

    async def look(self) -> None:
        lab, store = self.lab, self.lab.store
        for name in self.names:
            lease = await lab.lab.lease(lab.key(Kind.LEASE, name))
            if lease is not None and lease.ended:
                assert self.ended.setdefault(name, lease) == lease, "an ended lease changed"
            else:
                assert name not in self.ended, "an ended lease came back"
        if store.away or store.die_after is not None or lab.lab._core.chores.paused:
            return
        # A step that died half way may still be mended in a moment.
        lab.clock.advance(6 * SECOND)
        await lab.settle()
        lab.check()
        for lease in await lab.lab.leases(NAMESPACE):
            if state(lease, lab.clock.now()) is State.PENDING:
                for exporter in lab.lab.accounts(Kind.EXPORTER, NAMESPACE, lease.selector):
                    assert isinstance(exporter, Exporter)
                    free = exporter.online and exporter.registered and exporter.ready and not exporter.lease
                    assert not free, f"{lease.meta.name} waits although {exporter.meta.name} is free"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_the_books_are_right_and_nobody_is_forgotten(steps: list[tuple[object, ...]]) -> None:
    anyio.run(Story().live, list(steps))
