"""Offers of streams reach exactly one listener, the newest, whatever happens around them."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked

from .queues import Closed, Full, NoListener, Queues

PATIENCE = 5.0


async def _never(item: str) -> None:
    await anyio.sleep_forever()


async def test_offer_returns_when_the_listener_has_it() -> None:
    queues, got = Queues[str](), list[str]()

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            for number in range(3):
                await queues.offer("lease", f"token {number}", PATIENCE)
                assert got[-1] == f"token {number}"
            tasks.cancel_scope.cancel()
    assert len(queues) == 0


async def test_offer_waits_for_a_listener_that_comes_soon() -> None:
    queues, got = Queues[str](), list[str]()

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks, create_task_group() as offers:
            for number in range(20):
                offers.start_soon(queues.offer, "lease", str(number), PATIENCE)
            await wait_all_tasks_blocked()
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert got == [str(number) for number in range(20)]


async def test_D04_offer_without_listener_is_withdrawn() -> None:
    queues = Queues[str]()
    with fail_after(10), pytest.raises(NoListener):
        await queues.offer("lease", "token", 0.01)
    assert len(queues) == 0


async def test_D04_offers_that_wait_for_a_listener_are_bounded() -> None:
    queues = Queues[str](most_early=3)
    with fail_after(10):
        async with create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(queues.offer, "lease", str(number), PATIENCE)
            await wait_all_tasks_blocked()
            with pytest.raises(NoListener):
                await queues.offer("lease", "one more", PATIENCE)
            tasks.cancel_scope.cancel()
    assert len(queues) == 0


async def test_D05_full_queue_refuses_at_once_and_lets_a_new_listener_take_over() -> None:
    queues, got = Queues[str](), list[str]()

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(queues.listen, "lease", _never)
            await wait_all_tasks_blocked()
            tasks.start_soon(_offer_quietly, queues, "in flight")
            await wait_all_tasks_blocked()
            for number in range(8):
                tasks.start_soon(_offer_quietly, queues, str(number))
            await wait_all_tasks_blocked()
            # when there is no room
            with pytest.raises(Full):
                await queues.offer("lease", "too many", PATIENCE)
            # then the exporter that connects anew gets what waited
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            assert got == [str(number) for number in range(8)]
            tasks.cancel_scope.cancel()


async def _offer_quietly(queues: Queues[str], item: str) -> None:
    await queues.offer("lease", item, PATIENCE)


async def test_item_whose_sending_fails_goes_to_the_newer_listener() -> None:
    queues, got = Queues[str](), list[str]()
    broken = anyio.Event()

    async def fail(item: str) -> None:
        await broken.wait()
        raise ConnectionResetError

    async def listen_badly() -> None:
        with pytest.raises(ConnectionResetError):
            await queues.listen("lease", fail)

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(listen_badly)
            await wait_all_tasks_blocked()
            tasks.start_soon(_offer_quietly, queues, "token")
            await wait_all_tasks_blocked()
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            broken.set()
            await wait_all_tasks_blocked()
            assert got == ["token"]
            tasks.cancel_scope.cancel()


async def test_D06_every_offer_reaches_exactly_one_listener_while_listeners_change() -> None:
    queues, got, accepted = Queues[int](), list[int](), list[int]()
    rng = random.Random(6)
    rounds = 1000

    async def take(item: int) -> None:
        # A stream may fail before, never after, it took an item.
        await anyio.lowlevel.checkpoint()
        if rng.random() < 0.1:
            raise ConnectionResetError
        got.append(item)

    async def listen() -> None:
        try:
            await queues.listen("lease", take)
        except ConnectionResetError:
            pass

    async def dial(number: int) -> None:
        try:
            await queues.offer("lease", number, PATIENCE)
        except (Full, NoListener):
            return
        accepted.append(number)

    with fail_after(60):
        async with create_task_group() as tasks:
            for number in range(rounds):
                tasks.start_soon(dial, number)
                if rng.random() < 0.5:
                    tasks.start_soon(listen)
                if rng.random() < 0.3:
                    await anyio.lowlevel.checkpoint()
            while not queues.listening("lease") or queues.waiting("lease"):
                tasks.start_soon(listen)
                await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert sorted(got) == sorted(accepted)
    assert len(accepted) > rounds / 2


async def test_D06_superseded_listener_ends_by_itself() -> None:
    queues = Queues[str]()
    with fail_after(10):
        async with create_task_group() as tasks:
            ended = anyio.Event()

            async def listen() -> None:
                await queues.listen("lease", _never)
                ended.set()

            tasks.start_soon(listen)
            await wait_all_tasks_blocked()
            tasks.start_soon(queues.listen, "lease", _never)
            await ended.wait()
            assert queues.listening("lease")
            tasks.cancel_scope.cancel()


async def test_D07_end_of_an_older_listener_leaves_the_newer_one_alone() -> None:
    queues, got, old = Queues[str](), list[str](), anyio.CancelScope()

    async def listen_until_cut() -> None:
        with old:
            await queues.listen("lease", _never)

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks:
            # given an older listener in the middle of sending when a newer one comes
            tasks.start_soon(listen_until_cut)
            tasks.start_soon(_offer_quietly, queues, "in flight")
            await wait_all_tasks_blocked()
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            # when the older one ends
            old.cancel()
            await wait_all_tasks_blocked()
            # then the newer one is in place, and what was in flight goes there
            assert queues.listening("lease")
            await queues.offer("lease", "token", PATIENCE)
            assert got == ["in flight", "token"]
            tasks.cancel_scope.cancel()


async def test_closing_a_line_tells_those_who_wait_and_keeps_the_listener() -> None:
    queues = Queues[str]()
    outcome: list[str] = []

    async def dial() -> None:
        try:
            await queues.offer("lease", "second", PATIENCE)
        except Closed:
            outcome.append("closed")

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(queues.listen, "lease", _never)
            await wait_all_tasks_blocked()
            tasks.start_soon(_offer_quietly, queues, "first")
            tasks.start_soon(dial)
            await wait_all_tasks_blocked()
            queues.close("lease")
            await wait_all_tasks_blocked()
            assert outcome == ["closed"]
            assert queues.listening("lease")
            tasks.cancel_scope.cancel()


async def test_offer_of_somebody_who_goes_away_is_withdrawn() -> None:
    queues, got = Queues[str](), list[str]()

    async def take(item: str) -> None:
        got.append(item)

    with fail_after(10):
        async with create_task_group() as tasks:
            tasks.start_soon(_offer_quietly, queues, "token")
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        async with create_task_group() as tasks:
            tasks.start_soon(queues.listen, "lease", take)
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert got == []
    assert len(queues) == 0
