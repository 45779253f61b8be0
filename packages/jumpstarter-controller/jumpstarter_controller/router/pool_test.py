"""New streams go to a router that is there and has least to do of those that suit; all hear of cuts and keys."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked
from jumpstarter_protocol.jumpstarter.lab.v1.lab_pb2 import RouterOrder, RouterReport

from jumpstarter_controller.errors import Code, Refused
from jumpstarter_controller.identity.keys import StreamKeys
from jumpstarter_controller.identity.streams import StreamTokens
from jumpstarter_controller.lab import Actor
from jumpstarter_controller.model.records import Exporter, Key, Kind, Meta

from . import members, pool
from .book import CutBook
from .conftest import KEY, PATIENCE, Serve
from .members import Rate
from .pool import RouterPool, StaticRouter


def exporter(**labels: str) -> Exporter:
    return Exporter(meta=Meta(namespace="lab", name="board", labels=labels))


def actor(name: str = "r") -> Actor:
    return Actor(kind="router", key=Key(Kind.ROUTER, "lab", name))


def report(endpoint: str = "", labels: Mapping[str, str] | None = None, **fields: Any) -> RouterReport:
    return RouterReport(endpoint=endpoint, labels=labels or {}, **fields)


class Remote:
    """A router that has joined, from the controller's side."""

    def __init__(self) -> None:
        self.send, self._reports = anyio.create_memory_object_stream[RouterReport](10)
        self._orders, self.orders = anyio.create_memory_object_stream[RouterOrder](100)
        self.refused: Refused | None = None
        self.left = anyio.Event()

    async def run(self, routers: RouterPool, name: str) -> None:
        try:
            await routers.serve(actor(name), aiter(self._reports), self._orders.send)
        except Refused as refused:
            self.refused = refused
        finally:
            self.left.set()

    async def order(self) -> RouterOrder:
        with fail_after(PATIENCE):
            return await self.orders.receive()


Join = Callable[..., Any]


@asynccontextmanager
async def joining(routers: RouterPool) -> AsyncIterator[Join]:
    """Yield a function that lets a router join."""
    async with create_task_group() as tasks:

        async def join(endpoint: str, name: str = "r", labels: Mapping[str, str] | None = None, **load: Any) -> Remote:
            remote = Remote()
            tasks.start_soon(remote.run, routers, name)
            await remote.send.send(report(endpoint, labels, **load))
            await wait_all_tasks_blocked()
            return remote

        yield join
        tasks.cancel_scope.cancel()


@pytest.fixture
def routers() -> RouterPool:
    return RouterPool(StreamKeys([KEY]))


# -- choice ----------------------------------------------------------------------------------------


async def test_without_a_router_a_dial_is_refused_as_by_published_controllers(routers: RouterPool) -> None:
    with pytest.raises(Refused, match="no router available") as error:
        routers.choose(exporter())
    assert error.value.code is Code.UNKNOWN


async def test_the_router_with_least_to_do_is_chosen(routers: RouterPool) -> None:
    async with joining(routers) as join:
        await join("a:1", "a", streams=5)
        await join("b:1", "b", streams=2)
        await join("c:1", "c", streams=1, bytes_per_second=500_000_000)
        assert routers.choose(exporter()) == "b:1"


async def test_streams_given_between_two_reports_count_as_load(routers: RouterPool) -> None:
    async with joining(routers) as join:
        await join("a:1", "a")
        await join("b:1", "b")
        chosen = [routers.choose(exporter()) for _ in range(10)]
        assert sorted(chosen) == ["a:1"] * 5 + ["b:1"] * 5


async def test_a_router_for_the_labels_of_the_exporter_comes_first_then_one_for_any_then_others(
    routers: RouterPool,
) -> None:
    async with joining(routers) as join:
        await join("near:1", "near", {"site": "north", "rack": "1"}, streams=90)
        await join("site:1", "site", {"site": "north"}, streams=50)
        await join("any:1", "any", streams=10)
        await join("far:1", "far", {"site": "south"})
        board = exporter(site="north", rack="1", kind="pi")
        assert routers.choose(board) == "near:1"
        assert routers.choose(board, exclude=["near:1"]) == "site:1"
        assert routers.choose(board, exclude=["near:1", "site:1"]) == "any:1"
        assert routers.choose(board, exclude=["near:1", "site:1", "any:1"]) == "far:1"


async def test_an_excluded_router_is_chosen_when_there_is_no_other(routers: RouterPool) -> None:
    async with joining(routers) as join:
        await join("a:1")
        assert routers.choose(exporter(), exclude=["a:1"]) == "a:1"


async def test_draining_router_gets_no_streams(routers: RouterPool) -> None:
    async with joining(routers) as join:
        remote = await join("a:1")
        await remote.send.send(report(draining=True))
        await wait_all_tasks_blocked()
        with pytest.raises(Refused):
            routers.choose(exporter())


async def test_router_whose_connection_has_ended_is_left_out_at_once(routers: RouterPool) -> None:
    async with joining(routers) as join:
        remote = await join("a:1")
        remote.send.close()
        with fail_after(PATIENCE):
            await remote.left.wait()
        assert remote.refused is None
        with pytest.raises(Refused):
            routers.choose(exporter())


async def test_silent_router_is_left_out_until_it_reports_again(
    routers: RouterPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joining(routers) as join:
        remote = await join("a:1")
        assert routers.choose(exporter()) == "a:1"
        with monkeypatch.context() as patience:
            patience.setattr(members, "SILENCE", 0.0)
            with pytest.raises(Refused):
                routers.choose(exporter())
            assert [router.online for router in routers.describe()] == [False]
        await remote.send.send(report(streams=1))
        await wait_all_tasks_blocked()
        assert routers.choose(exporter()) == "a:1"


async def test_the_built_in_router_comes_last_among_equals_as_its_streams_end_with_the_controller(
    serve: Serve,
) -> None:
    routers = RouterPool(StreamKeys([KEY]))
    async with serve() as router:
        routers.add_built_in(router.relay, "built.in:1")
        assert routers.choose(exporter()) == "built.in:1"
        async with joining(routers) as join:
            await join("a:1", streams=100)
            assert {routers.choose(exporter()) for _ in range(9)} == {"a:1"}
        assert routers.choose(exporter(), exclude=["a:1"]) == "built.in:1"


async def test_the_built_in_router_is_not_chosen_while_it_stops(serve: Serve) -> None:
    routers = RouterPool(StreamKeys([KEY]))
    async with serve() as router:
        routers.add_built_in(router.relay, "built.in:1")
        router.relay.drain()
        with pytest.raises(Refused, match="no router available"):
            routers.choose(exporter())


async def test_a_fixed_router_counts_while_its_port_accepts_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PROBE_INTERVAL", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        routers = RouterPool(StreamKeys([KEY]), [StaticRouter(endpoint=endpoint)])

        async def online(expected: bool) -> None:
            with fail_after(PATIENCE):
                while next(iter(routers.describe())).online is not expected:  # noqa: ASYNC110
                    await anyio.sleep(0.01)

        async with create_task_group() as tasks:
            tasks.start_soon(routers.run)
            await online(True)
            assert routers.choose(exporter()) == endpoint
            server.close()
            await online(False)
            tasks.cancel_scope.cancel()


async def test_what_is_known_of_routers_is_told(routers: RouterPool) -> None:
    async with joining(routers) as join:
        await join("a:1", "name", {"site": "north"}, streams=3, bytes_per_second=7, draining=True)
        (router,) = routers.describe()
        assert (router.name, router.endpoint, dict(router.labels)) == ("name", "a:1", {"site": "north"})
        assert (router.online, router.draining, router.streams, router.bytes_per_second) == (True, True, 3, 7)
        assert router.HasField("last_seen")


# -- orders ------------------------------------------------------------------------------------------


async def test_joining_router_is_told_the_keys_before_it_reports(routers: RouterPool) -> None:
    async with create_task_group() as tasks:
        remote = Remote()
        tasks.start_soon(remote.run, routers, "r")
        assert list((await remote.order()).keys) == [KEY]
        tasks.cancel_scope.cancel()


async def test_changed_keys_are_told() -> None:
    keys = StreamKeys([KEY])
    routers = RouterPool(keys)
    async with create_task_group() as tasks, joining(routers) as join:
        tasks.start_soon(routers.run)
        remote = await join("a:1")
        await remote.order()
        keys.replace([b"n" * 32, KEY])
        assert list((await remote.order()).keys) == [b"n" * 32, KEY]
        tasks.cancel_scope.cancel()


async def test_X06_cuts_reach_all_routers(serve: Serve, tokens: StreamTokens, routers: RouterPool) -> None:
    async with serve() as router, joining(routers) as join:
        routers.add_built_in(router.relay, "built.in:1")
        remote = await join("a:1")
        await remote.order()
        await router.pair(tokens, "s", lease="lab/l", client="c")
        routers.cut(["unused"])
        routers.cut_lease("lab/l", "c")
        with fail_after(PATIENCE):
            while router.relay.counters().streams:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        told = await remote.order()
        if not told.cut_leases:
            told.MergeFrom(await remote.order())
        assert list(told.cut) == ["unused"]
        assert [(cut.lease, cut.client) for cut in told.cut_leases] == [("lab/l", "c")]


async def test_X06_router_that_was_away_is_told_of_the_cuts_since_then_and_no_earlier_ones(
    routers: RouterPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MARGIN", 0.0)
    async with joining(routers) as join:
        remote = await join("a:1")
        await remote.order()
        routers.cut_lease("before")
        assert (await remote.order()).cut_leases[0].lease == "before"
        await remote.send.send(report(streams=1))
        await wait_all_tasks_blocked()
        remote.send.close()
        await remote.left.wait()
        routers.cut_lease("meanwhile")
        back = await join("a:1")
        orders = [await back.order()]
        if not orders[-1].cut_leases:
            orders.append(await back.order())
        assert [cut.lease for order in orders for cut in order.cut_leases] == ["meanwhile"]


async def test_X08_router_that_this_controller_never_saw_is_told_all_cuts(routers: RouterPool) -> None:
    routers.cut_lease("expired while nobody looked")
    async with joining(routers) as join:
        remote = await join("a:1")
        orders = [await remote.order()]
        if not orders[-1].cut_leases:
            orders.append(await remote.order())
        assert [cut.lease for order in orders for cut in order.cut_leases] == ["expired while nobody looked"]


async def test_router_that_connects_again_takes_the_place_of_its_stale_connection(routers: RouterPool) -> None:
    async with joining(routers) as join:
        stale = await join("a:1")
        fresh = await join("a:1", streams=3)
        with fail_after(PATIENCE):
            await stale.left.wait()
        assert stale.refused is not None
        assert stale.refused.reason == "SUPERSEDED"
        assert [router.streams for router in routers.describe()] == [3]
        assert not fresh.left.is_set()


async def test_two_routers_of_one_account_are_both_used(routers: RouterPool) -> None:
    async with joining(routers) as join:
        await join("a:1")
        await join("b:1")
        assert {routers.choose(exporter()) for _ in range(2)} == {"a:1", "b:1"}


async def test_router_that_does_not_take_its_orders_is_dropped(
    routers: RouterPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SEND_TIMEOUT", 0.1)

    async def stuck(order: RouterOrder) -> None:
        await anyio.sleep_forever()

    _send, reports = anyio.create_memory_object_stream[RouterReport](1)
    with fail_after(PATIENCE), pytest.raises(Refused, match="did not accept an order"):
        await routers.serve(actor(), aiter(reports), stuck)


@pytest.mark.parametrize(
    "bad",
    [
        report(),
        report("no port"),
        report("host"),
        report("host:99999"),
        report("user@host:1"),
        report("host:1/path"),
        report("h" * 400 + ":1"),
        report("host:1", {"x" * 300: "y"}),
        report("host:1", {str(number): "x" for number in range(100)}),
    ],
    ids=["none", "blank", "no port", "port too large", "user", "path", "long", "long label", "many labels"],
)
async def test_senseless_report_is_refused_and_changes_nothing(routers: RouterPool, bad: RouterReport) -> None:
    remote = Remote()
    async with create_task_group() as tasks:
        tasks.start_soon(remote.run, routers, "r")
        await remote.send.send(bad)
        with fail_after(PATIENCE):
            await remote.left.wait()
    assert remote.refused is not None
    assert remote.refused.code is Code.INVALID_ARGUMENT
    assert list(routers.describe()) == []


async def test_router_that_says_nothing_is_sent_away(routers: RouterPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST_REPORT", 0.1)
    remote = Remote()
    with fail_after(PATIENCE):
        await remote.run(routers, "r")
    assert remote.refused is not None
    assert remote.refused.reason == "NO_REPORT"


def test_senseless_fixed_router_is_refused() -> None:
    with pytest.raises(Refused, match="host:port"):
        RouterPool(StreamKeys([KEY]), [StaticRouter(endpoint="nowhere")])


# -- the parts ---------------------------------------------------------------------------------------


def test_the_book_forgets_what_no_token_can_open_any_more() -> None:
    now = 0.0
    book = CutBook(lambda: now)
    book.cut(streams=[f"{number}" for number in range(100)])
    now = 3600.0
    book.cut(streams=["new"])
    assert len(book) == 1
    assert list(book.since(0).streams) == ["new"]


def test_many_cuts_are_told_in_messages_that_peers_accept() -> None:
    book = CutBook()
    order = book.cut(streams=[f"{number:036}" for number in range(25_000)], leases=[("lab/x", "c")])
    order.keys = (KEY,)
    messages = list(order.messages())
    assert len(messages) == 3
    assert all(len(message.SerializeToString()) < 1 << 20 for message in messages)
    assert sum(len(message.cut) for message in messages) == 25_000
    assert [list(message.keys) for message in messages] == [[KEY], [], []]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    assert rate.of(0) == 0
    now = 2.0
    assert rate.of(2000) == 1000
    now = 4.0
    assert rate.of(2000) == 0
