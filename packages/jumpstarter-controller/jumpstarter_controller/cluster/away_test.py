"""A cluster that is away for a while: what runs goes on, who asks is told, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import anyio
import grpc
import pytest
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.resources import EXPORTERS, LEASES
from jumpstarter_protocol import client_pb2
from jumpstarter_testbench.kube.fixtures import Kube

from ..model.records import ExporterStatus, Key, Kind
from ..testing import Login, RunningLab
from .conftest import Start, become, leading

PATIENCE = 90


@asynccontextmanager
async def leased(login: Login, portal: BlockingPortal) -> AsyncIterator[Any]:
    arguments = {"selector": None, "exporter_name": "board", "lease_name": None, "duration": timedelta(minutes=5)}
    async with login.client_config().lease_async(**arguments, portal=portal) as lease:
        with ExitStack() as stack:
            async with lease.connect_async(stack) as client:
                yield client


async def request(login: Login) -> Any:
    lease = client_pb2.Lease(exporter_name="board")
    lease.duration.FromSeconds(60)
    async with login.stubs() as stubs:
        return await stubs.client.CreateLease(client_pb2.CreateLeaseRequest(parent="namespaces/default", lease=lease))


async def test_what_runs_goes_on_and_who_asks_is_told_why_it_takes_time(own_kube: Kube, controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with controller() as lab, BlockingPortal() as portal:
            await leading(lab)
            alice, bob = await lab.client("alice"), await lab.client("bob")
            async with lab.serving_exporter():
                async with leased(alice, portal) as client:
                    await to_thread.run_sync(client.power.on)
                    own_kube.stop()
                    await become(lambda: not lab.lab.leading)
                    await to_thread.run_sync(client.power.off)
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await request(bob)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert "can't keep records at present" in str(caught.value.details())
                    assert "Leases that run go on" in str(caught.value.details())
                    await to_thread.run_sync(client.power.on)
                    own_kube.start()
                    await leading(lab)
                    await to_thread.run_sync(client.power.off)
                await bob_gets_it(lab, bob)


async def bob_gets_it(lab: RunningLab, bob: Login) -> None:
    made = await request(bob)
    key = Key(Kind.LEASE, "default", made.name.rpartition("/")[2])
    await lab.until(key, lambda record: record.exporter == "board")


async def test_what_others_changed_meanwhile_is_known_afterwards(own_kube: Kube, controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with controller() as lab, own_kube.cluster() as cluster:
            await leading(lab)
            await lab.exporter("kept")
            await lab.exporter("removed")
            own_kube.drop_watches()
            await cluster.patch(EXPORTERS, "kept", {"metadata": {"labels": {"board": "rpi"}}})
            await cluster.delete(EXPORTERS, "removed")
            own_kube.compact()
            kept = await lab.until(
                Key(Kind.EXPORTER, "default", "kept"), lambda record: record.meta.labels.get("board") == "rpi"
            )
            assert kept.enabled
            await become(lambda: lab.lab.account(Key(Kind.EXPORTER, "default", "removed")) is None)


async def test_a_write_whose_answer_is_lost_is_neither_lost_nor_done_twice(own_kube: Kube, controller: Start) -> None:
    with anyio.fail_after(PATIENCE):
        async with controller() as lab, own_kube.cluster() as cluster:
            await leading(lab)
            alice = await lab.client("alice")
            async with lab.serving_exporter():
                for lost in range(1, 4):
                    own_kube.server.faults.lose_answers = lost
                    with suppress(grpc.aio.AioRpcError):
                        await request(alice)
                    own_kube.server.faults.lose_answers = 0
                    for item in (await cluster.list(LEASES)).items:
                        if not (item.get("status") or {}).get("ended"):
                            await cluster.patch(LEASES, item["metadata"]["name"], {"spec": {"release": True}})
                    await lab.until(
                        Key(Kind.EXPORTER, "default", "board"),
                        lambda record: not record.lease and record.status is ExporterStatus.AVAILABLE,
                        30,
                    )
            leases = await until_all_ended(cluster)
            assert len(leases) <= 3


async def until_all_ended(cluster: Cluster, patience: float = 20) -> list[dict[str, Any]]:
    """Return all leases when they have ended."""
    leases: list[dict[str, Any]] = []
    with anyio.move_on_after(patience):
        while True:
            leases = (await cluster.list(LEASES)).items
            if all((item.get("status") or {}).get("ended") for item in leases):
                return leases
            await anyio.sleep(0.1)
    raise AssertionError(f"not ended: {[item for item in leases if not (item.get('status') or {}).get('ended')]}")
