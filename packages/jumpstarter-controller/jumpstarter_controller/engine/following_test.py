"""Who follows records hears of changes, once, soon, and not of every step of a queue."""

from __future__ import annotations

from datetime import timedelta

import anyio

from ..lab import LeaseChange
from ..model.records import ExporterStatus, Key, Kind, Lease
from .simulation import HOUR, NAMESPACE, SECOND, Simulation


class Ear:
    """Counts what a follower is told."""

    def __init__(self, lab: Simulation, *keys: Key) -> None:
        self.lab, self.keys, self.heard = lab, keys, 0

    async def listen(self) -> None:
        async with self.lab.lab.follow(*self.keys) as moments:
            async for _ in moments:
                self.heard += 1


async def test_the_first_moment_comes_at_once_and_then_one_for_each_change(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    ear = Ear(lab, lease.key)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ear.listen)
        await lab.settle()
        assert ear.heard == 1
        await lab.settle()
        assert ear.heard == 1
        await lab.release(lease)
        assert ear.heard == 2
        tasks.cancel_scope.cancel()


async def test_changes_that_come_while_the_reader_is_busy_are_told_once(lab: Simulation) -> None:
    await lab.exporter("a")
    async with lab.lab.follow(lab.key(Kind.EXPORTER, "a")) as moments:
        await anext(moments)
        for status in (ExporterStatus.BEFORE_LEASE_HOOK, ExporterStatus.LEASE_READY, ExporterStatus.AVAILABLE):
            await lab.report("a", status)
        with anyio.fail_after(1):
            await anext(moments)
        with anyio.move_on_after(0.01) as scope:
            await anext(moments)
        assert scope.cancelled_caught


async def test_who_follows_an_exporter_hears_of_its_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    async with lab.lab.follow(lab.key(Kind.EXPORTER, "a")) as moments:
        await anext(moments)
        await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(client="bob"))
        with anyio.fail_after(1):
            await anext(moments)


async def test_who_follows_all_hears_first_of_all_then_of_changes(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    async with lab.lab.follow_all(Kind.EXPORTER, NAMESPACE) as sets:
        assert {key.name for key in await anext(sets)} == {"a", "b"}
        await lab.report("b", ExporterStatus.LEASE_READY)
        with anyio.fail_after(1):
            assert {key.name for key in await anext(sets)} == {"b"}
        await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, "a"))
        with anyio.fail_after(1):
            assert {key.name for key in await anext(sets)} == {"a"}


async def test_a_lab_that_stops_ends_all_iterations() -> None:
    lab = Simulation()
    ended = anyio.Event()

    async def listen(key: Key) -> None:
        async with lab.lab.follow(key) as moments, lab.lab.follow_all(Kind.LEASE, "") as sets:
            async for _ in moments:
                pass
            async for _ in sets:
                pass
        ended.set()

    async with anyio.create_task_group() as tasks:
        async with lab.running():
            tasks.start_soon(listen, lab.key(Kind.LEASE, "x"))
            await lab.settle()
        with anyio.fail_after(1):
            await ended.wait()


async def test_those_near_their_turn_hear_of_their_place_more_often(lab: Simulation) -> None:
    await lab.exporter("a")
    leases: list[Lease] = [await lab.lease("alice") for _ in range(60)]
    near, far = Ear(lab, leases[20].key), Ear(lab, leases[55].key)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(near.listen)
        tasks.start_soon(far.listen)
        await lab.settle()
        for number in range(12):
            await lab.release(await lab.now(leases[number]))
            await lab.advance(SECOND)
        assert near.heard > far.heard
        assert far.heard <= 5
        assert near.heard <= 12
        tasks.cancel_scope.cancel()


async def test_a_lease_that_is_granted_is_told_at_once_however_far_it_was(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b", board="y", status=ExporterStatus.AFTER_LEASE_HOOK)
    await lab.lease("bob", duration=10 * HOUR)
    await lab.lease("bob", duration=10 * HOUR)
    lease = await lab.lease("alice", selector="board=y")
    async with lab.lab.follow(lease.key) as moments:
        await anext(moments)
        await lab.report("b", ExporterStatus.AVAILABLE)
        with anyio.fail_after(1):
            await anext(moments)
        assert (await lab.now(lease)).exporter == "b"


async def test_a_follower_that_left_is_forgotten(lab: Simulation) -> None:
    async with lab.lab.follow(lab.key(Kind.LEASE, "x")):
        pass
    assert not lab.lab._core.followers.followed(lab.key(Kind.LEASE, "x"))
    await lab.advance(timedelta(seconds=2))
