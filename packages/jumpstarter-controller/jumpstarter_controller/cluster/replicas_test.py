"""Several controllers of one lab: whoever is connected to whichever, it is one lab, also when one of them dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import grpc
import pytest
from anyio import to_thread
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal
from jumpstarter_kubernetes.resources import COORDINATION_LEASES
from jumpstarter_protocol import client_pb2, jumpstarter_pb2, lab_pb2, peer_pb2, peer_pb2_grpc
from jumpstarter_testbench.kube.fixtures import Kube

from ..identity.authority import Authority
from ..model.records import Exporter, ExporterStatus, Key, Kind
from ..scripted import scripted_exporter
from ..store.base import Conflict, Update
from ..testing import Login, RunningLab
from .conftest import Start, become, leading
from .election import Terms
from .membership import ADDRESS
from .peers import HOST

PATIENCE = 60


@asynccontextmanager
async def two(controller: Start, **settings: Any) -> AsyncIterator[tuple[RunningLab, RunningLab]]:
    """Run two controllers that know each other; the first one decides."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(controller("first", **settings))
        await leading(first)
        second = await stack.enter_async_context(controller("second", **settings))
        await become(lambda: all(_others(lab) for lab in (first, second)))
        yield first, second


def _others(lab: RunningLab) -> Any:
    member = lab.server._member
    assert member is not None
    assert member._membership is not None
    return member._membership.others


def at(lab: RunningLab, login: Login) -> Login:
    """Return a login for another controller."""
    return Login(key=login.key, token=login.token, endpoint=lab.endpoint, ca=lab.ca)


def board(lab: RunningLab, name: str = "board") -> Exporter:
    record = lab.lab.account(Key(Kind.EXPORTER, "default", name))
    assert isinstance(record, Exporter)
    return record


async def put(lab: RunningLab, name: str, **changes: Any) -> None:
    """Change the record of an exporter, whatever others change of it meanwhile."""
    while True:
        try:
            await lab.server.store.commit(Update(replace(board(lab, name), **changes)))
            return
        except Conflict:
            await anyio.sleep(0.1)


def wish(name: str = "board", seconds: int = 60) -> Any:
    lease = client_pb2.Lease(exporter_name=name)
    lease.duration.FromSeconds(seconds)
    return client_pb2.CreateLeaseRequest(parent="namespaces/default", lease=lease)


async def test_a_client_at_one_drives_a_board_at_the_other(controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with two(controller) as (first, second), BlockingPortal() as portal:
            alice = await second.client("alice")
            await first.until(alice.key, lambda record: record.credential.jti)
            for here, there in ((first, second), (second, first)):
                async with here.serving_exporter():
                    await there.until(board(here).key, lambda record: record.online)
                    config = at(there, alice).client_config()
                    arguments = {"selector": None, "exporter_name": "board", "lease_name": None}
                    async with config.lease_async(**arguments, duration=timedelta(minutes=5), portal=portal) as lease:
                        with ExitStack() as stack:
                            async with lease.connect_async(stack) as client:
                                await to_thread.run_sync(client.power.on)
                await here.until(Key(Kind.EXPORTER, "default", "board"), lambda record: not record.online)


async def test_a_dial_that_nobody_can_answer_says_so(controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with two(controller) as (first, second):
            for lab in (first, second):
                lab.server.switchboard.listener_patience = 0.5
            alice = await first.client("alice")
            await second.until(alice.key, lambda record: record.credential.jti)
            async with scripted_exporter(first) as (exporter, _), at(second, alice).stubs() as stubs:
                await second.until(board(first).key, lambda record: record.online)
                made = await stubs.client.CreateLease(wish())
                name = made.name.rpartition("/")[2]
                await second.until(Key(Kind.LEASE, "default", name), lambda record: record.exporter)
                await exporter.report(ExporterStatus.LEASE_READY)
                await second.until(board(first).key, lambda record: record.status is ExporterStatus.LEASE_READY)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stubs.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "exporter is not listening" in caught.value.details()


async def test_refusals_of_the_other_one_come_in_its_words(controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with two(controller) as (first, second):
            alice, bob = await first.client("alice"), await first.client("bob")
            await second.until(bob.key, lambda record: record.credential.jti)
            async with (
                scripted_exporter(first) as (exporter, _),
                alice.stubs() as own,
                at(second, bob).stubs() as stubs,
            ):
                made = await own.client.CreateLease(wish())
                name = made.name.rpartition("/")[2]
                exporter.listen(name)
                await second.until(Key(Kind.LEASE, "default", name), lambda record: record.exporter)
                with pytest.raises(grpc.aio.AioRpcError, match="permission denied"):
                    await stubs.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))


async def test_an_exporter_says_where_it_is_and_moves_without_being_offline(controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with two(controller, leases={"offline_after": 0.5}) as (first, second):
            login = await first.exporter("board")
            await second.until(login.key, lambda record: record.credential.jti)
            told: list[bool] = []
            for lab in (first, second):
                lab.lab.observe(lambda _, new: told.append(new.online) if isinstance(new, Exporter) else None)
            async with login.stubs() as here, at(second, login).stubs() as there:
                await here.controller.Register(
                    jumpstarter_pb2.RegisterRequest(reports=[jumpstarter_pb2.DriverInstanceReport(uuid="1")])
                )
                status = here.controller.Status(jumpstarter_pb2.StatusRequest())
                await status.read()
                await second.until(login.key, lambda record: record.online and record.via == "first")
                told.clear()
                other = there.controller.Status(jumpstarter_pb2.StatusRequest())
                await other.read()
                status.cancel()
                await first.until(login.key, lambda record: record.via == "second")
                await anyio.sleep(1.0)
                assert board(first).online
                assert all(told)
                other.cancel()
            await first.until(login.key, lambda record: not record.online)


async def test_the_exporters_of_a_dead_controller_are_offline_soon_and_no_others(
    own_kube: Kube, controller: Start
) -> None:
    """One that can't tell the cluster any more is as good as dead."""
    with anyio.fail_after(PATIENCE):
        async with controller("first", leases={"offline_after": 0.5}) as first:
            await leading(first)
            async with own_kube.cluster() as cluster:
                ghost = {
                    "metadata": {
                        "name": "jumpstarter-replica-ghost",
                        "labels": {"lab.jumpstarter.dev/replica": "true"},
                        "annotations": {ADDRESS: "127.0.0.1:1"},
                    },
                    "spec": {"holderIdentity": "ghost", "renewTime": "2020-01-01T00:00:00.000000Z"},
                }
                await cluster.create(COORDINATION_LEASES, ghost)
                await become(lambda: "ghost" in _others(first))
            async with scripted_exporter(first, "here"):
                await first.exporter("gone")
                await put(first, "gone", online=True, via="ghost")
                await first.until(board(first, "gone").key, lambda record: not record.online)
                assert board(first, "here").online


async def test_who_waits_at_another_one_is_waited_with(controller: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jumpstarter_controller.cluster.peers.REPORT_INTERVAL", timedelta(seconds=0.3))
    with anyio.fail_after(PATIENCE):
        async with two(controller, leases={"pending_grace": 1.5}) as (first, second):
            alice, bob = await first.client("alice"), await first.client("bob")
            await second.until(bob.key, lambda record: record.credential.jti)
            async with scripted_exporter(first), alice.stubs() as own, at(second, bob).stubs() as stubs:
                await own.client.CreateLease(wish())
                made = await stubs.client.CreateLease(wish())
                key = Key(Kind.LEASE, "default", made.name.rpartition("/")[2])
                watch = stubs.lab.WatchLease(lab_pb2.WatchLeaseRequest(name=made.name))
                await watch.read()
                await anyio.sleep(4)
                lease = first.lab.active_lease(key)
                assert lease is not None
                assert not lease.exporter
                watch.cancel()
                ended = await first.until(key, lambda record: record.ended)
                assert "stopped waiting" in ended.conditions[-1].message


async def test_the_next_one_decides_and_nothing_is_lost_when_the_first_one_goes(controller: Start) -> None:
    slow = Terms(duration=20, deadline=15, interval=0.1)
    go = anyio.Event()

    async def run_first(*, task_status: TaskStatus[RunningLab]) -> None:
        async with controller("first", slow) as first:
            await leading(first)
            task_status.started(first)
            await go.wait()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            first = await tasks.start(run_first)
            async with controller("second", slow) as second:
                alice = await first.client("alice")
                await second.until(alice.key, lambda record: record.credential.jti)
                async with scripted_exporter(second), at(second, alice).stubs() as stubs:
                    made = await stubs.client.CreateLease(wish())
                    key = Key(Kind.LEASE, "default", made.name.rpartition("/")[2])
                    await second.until(key, lambda record: record.exporter)
                    waiting = await stubs.client.CreateLease(wish())
                    go.set()
                    await leading(second)
                    lease = second.lab.active_lease(key)
                    assert lease is not None
                    assert lease.exporter == "board"
                    await stubs.client.DeleteLease(client_pb2.DeleteLeaseRequest(name=made.name))
                    following = Key(Kind.LEASE, "default", waiting.name.rpartition("/")[2])
                    await second.until(following, lambda record: record.exporter == "board")


@pytest.mark.parametrize("token", ["", "nonsense", "an account's"])
async def test_only_controllers_of_the_lab_are_answered(controller: Start, token: str) -> None:
    with anyio.fail_after(PATIENCE):
        async with two(controller) as (first, second):
            if token == "an account's":
                token = (await first.client("alice")).token
            [address] = _others(second).values()
            authority = await Authority.load(first.server.store, first.server.clock)
            credentials = grpc.ssl_channel_credentials(authority.certificate)
            options = [("grpc.ssl_target_name_override", HOST)]
            async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
                stub = peer_pb2_grpc.PeerServiceStub(channel)
                for call in (stub.Dial(peer_pb2.PeerDialRequest(), metadata=(("authorization", f"Bearer {token}"),)),):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
