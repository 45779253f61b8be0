"""Lists of leases and exporters as they change, at controllers that tell and at those that have to be asked."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import grpc
import pytest
from anyio import fail_after

from jumpstarter.client.controller import following
from jumpstarter.client.controller.following import Change, ChangeKind
from jumpstarter.client.grpc import ClientService
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.config.serving import controller_channel

BOUND = 20
HOUR = timedelta(hours=1)


@asynccontextmanager
async def service_of(lab: Any, who: str = "alice") -> AsyncGenerator[ClientService, None]:
    config = lab.client(who)
    async with await controller_channel("Client", config) as channel:
        yield ClientService(channel=channel, namespace=config.metadata.namespace)


@pytest.fixture(params=["telling_lab", "lab"], ids=["told", "asked"])
def any_lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A controller that tells of changes, and one that doesn't."""
    monkeypatch.setattr(following, "POLL_INTERVAL", 0.05)
    return request.getfixturevalue(request.param)


async def news(changes: AsyncGenerator[Change[Any], None]) -> tuple[ChangeKind, str]:
    with fail_after(BOUND):
        change = await anext(changes)
    return change.kind, change.item.name if change.item is not None else ""


async def test_what_there_is_is_told_and_then_what_changes(any_lab: Any) -> None:
    any_lab.controller.add("rpi-1", board="rpi")
    async with service_of(any_lab) as service, aclosing(service.watch_leases()) as changes:
        await service.create_lease(HOUR, selector="board=rpi", lease_id="one")
        assert await news(changes) == (ChangeKind.PUT, "one")
        assert await news(changes) == (ChangeKind.CURRENT, "")
        await service.create_lease(HOUR, selector="board=rpi", lease_id="two")
        assert await news(changes) == (ChangeKind.PUT, "two")
        await service.delete_lease("one")
        # One has ended and two has its board; which is told first doesn't matter.
        told = {await news(changes), await news(changes)}
        assert told == {(ChangeKind.DELETED, "one"), (ChangeKind.PUT, "two")}


async def test_exporters_are_told_with_who_has_them(any_lab: Any) -> None:
    any_lab.controller.add("rpi-1", board="rpi")
    async with service_of(any_lab) as service, aclosing(service.watch_exporters()) as changes:
        with fail_after(BOUND):
            first = await anext(changes)
        assert first.item is not None
        assert (first.item.name, first.item.lease_name) == ("rpi-1", "")
        assert await news(changes) == (ChangeKind.CURRENT, "")
        await service.create_lease(HOUR, exporter_name="rpi-1", lease_id="one")
        with fail_after(BOUND):
            second = await anext(changes)
        assert second.item is not None
        assert (second.item.lease_name, second.item.leased_by) == ("one", "alice")


async def test_disabled_exporters_are_told_on_request(any_lab: Any) -> None:
    any_lab.controller.add("rpi-1").enabled = False
    any_lab.controller.add("rpi-2")
    async with service_of(any_lab) as service:
        async with aclosing(service.watch_exporters()) as changes:
            assert [await news(changes) for _ in range(2)] == [(ChangeKind.PUT, "rpi-2"), (ChangeKind.CURRENT, "")]
        async with aclosing(service.watch_exporters(include_disabled=True)) as changes:
            assert await news(changes) == (ChangeKind.PUT, "rpi-1")


async def test_selectors_with_more_than_equality_hold_for_changes(any_lab: Any) -> None:
    async with service_of(any_lab) as service:
        await service.create_lease(HOUR, selector="board=rpi,!broken", lease_id="one")
        await service.create_lease(HOUR, selector="board=rpi", lease_id="two")
        async with aclosing(service.watch_leases(filter="!broken")) as changes:
            assert [await news(changes) for _ in range(2)] == [(ChangeKind.PUT, "one"), (ChangeKind.CURRENT, "")]


async def test_what_has_gone_is_told_as_it_was_last_seen(any_lab: Any) -> None:
    async with service_of(any_lab) as service:
        await service.create_lease(HOUR, selector="board=rpi,!broken", lease_id="one")
        await service.create_lease(HOUR, selector="board=rpi", lease_id="two")
        async with aclosing(service.watch_leases(filter="!broken")) as changes:
            assert (await news(changes))[1] == "one"
            assert (await news(changes))[0] is ChangeKind.CURRENT
            del any_lab.controller.leases["two"]
            del any_lab.controller.leases["one"]
            any_lab.controller.touch()
            with fail_after(BOUND):
                change = await anext(changes)
            while change.kind is ChangeKind.PUT:  # the place in the queue
                change = await anext(changes)
    assert change.item is not None
    assert (change.kind, change.item.name, change.item.client) == (ChangeKind.DELETED, "one", "alice")


async def test_what_happened_in_an_absence_is_told_afterwards(telling_lab: Any) -> None:
    async with service_of(telling_lab) as service, aclosing(service.watch_leases()) as changes:
        for name in ("one", "two"):
            await service.create_lease(HOUR, selector="board=rpi", lease_id=name)
        assert [(await news(changes))[1] for _ in range(3)] == ["one", "two", ""]
        telling_lab.faults.refuse["WatchLeases"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")]
        await service.delete_lease("one")
        with fail_after(BOUND):
            lost = await anext(changes)
        assert lost.kind is ChangeKind.LOST
        assert "restarting" in lost.text
        told = [await news(changes) for _ in range(3)]
        # The place of two in the queue is another one now.
        assert told == [(ChangeKind.PUT, "two"), (ChangeKind.DELETED, "one"), (ChangeKind.CURRENT, "")]


async def test_a_refusal_ends_it(any_lab: Any) -> None:
    any_lab.controller.tokens.clear()
    async with service_of(any_lab) as service, aclosing(service.watch_leases()) as changes:
        with pytest.raises(ConnectionError, match="token is not valid"):
            await anext(changes)


async def test_one_lease_is_followed_to_its_end(any_lab: Any) -> None:
    any_lab.controller.add("rpi-1", board="rpi")
    async with service_of(any_lab) as service:
        await service.create_lease(HOUR, selector="board=imx", lease_id="one")
        seen = []
        with fail_after(BOUND):
            async with aclosing(service.follow_lease("one")) as changes:
                async for change in changes:
                    assert change.item is not None
                    seen.append(change.item.state_word())
                    if seen == ["Waiting"]:
                        any_lab.controller.add("imx-1", board="imx")
                    elif not change.item.ended:
                        any_lab.controller.end("one", "Expired")
    assert seen == ["Waiting", "In-Use", "Expired"]


async def test_a_channel_is_asked_once_whether_its_controller_tells(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with service_of(lab) as service:
        for _ in range(2):
            assert [each.name for each in (await service.list_exporter_states()).exporters] == ["rpi-1"]
        async with service._calls() as calls:
            assert calls.lab is None
    async with service_of(lab) as other, other._calls() as calls:
        assert calls.lab is not None


async def test_states_are_listed_with_places_and_roles(telling_lab: Any) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with service_of(telling_lab) as service, service_of(telling_lab, "bob") as other:
        await service.create_lease(HOUR, selector="board=rpi", lease_id="one")
        await other.create_lease(HOUR, selector="board=rpi", lease_id="two")
        await service.share_lease("one", "bob", "watcher")
        one, two = (await other.list_lease_states()).leases
        assert (one.role, one.shares, one.granted) == ("watcher", {"bob": "watcher"}, True)
        assert (two.role, two.place, two.waiting, two.holders[0].client) == ("owner", 1, 1, "alice")
        assert [each.name for each in (await other.list_lease_states(client="alice")).leases] == ["one"]
        assert re.fullmatch(
            r"next in the queue; rpi-1 is used by alice until [\d: -]+ \((59m|1h) left\)", two.waiting_text()
        )


async def test_one_exporter_is_told_with_its_lease(any_lab: Any) -> None:
    any_lab.controller.add("rpi-1", board="rpi")
    any_lab.controller.add("rpi-2")
    async with service_of(any_lab) as service:
        await service.create_lease(HOUR, exporter_name="rpi-1", lease_id="one")
        state = await service.exporter_state("rpi-1")
        assert (state.name, state.lease_name, state.leased_by) == ("rpi-1", "one", "alice")
        assert (await service.exporter_state("rpi-2")).lease_name == ""


async def test_following_that_is_given_up_leaves_no_stream_behind(telling_lab: Any) -> None:
    async with service_of(telling_lab) as service, aclosing(service.watch_leases()) as changes:
        assert await news(changes) == (ChangeKind.CURRENT, "")
        with anyio.move_on_after(0.05) as limit:
            await anext(changes)
        assert limit.cancelled_caught
    with fail_after(BOUND):
        while telling_lab.service.watches["WatchLeases"]:  # noqa: ASYNC110 (gRPC's own tasks end it)
            await anyio.sleep(0.01)
