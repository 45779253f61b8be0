"""Controllers that share a cluster: objects get what they need, one decides, and another one goes on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import ClusterError, NotFound
from jumpstarter_kubernetes.resources import CLIENTS, CONFIG_MAPS, EXPORTERS, LEASES, SECRETS, Resource
from jumpstarter_protocol import client_pb2
from jumpstarter_testbench.kube.fixtures import Kube

from ..model.records import Key, Kind
from ..scripted import scripted_exporter
from ..testing import Login
from .conftest import Start, become, leading
from .election import Terms


async def eventually(read: Callable[[], Any]) -> Any:
    """Return what a coroutine function gives when it gives something."""
    with anyio.fail_after(20):
        while True:
            try:
                if found := await read():
                    return found
            except ClusterError:
                pass
            await anyio.sleep(0.1)


async def credential(cluster: Cluster, resource: Resource, name: str) -> tuple[str, dict[str, Any]]:
    """Wait for the credential of an object as older releases of `jmp admin` do; return token and object."""

    async def read() -> Any:
        item = await cluster.get(resource, name)
        secret = ((item.get("status") or {}).get("credential") or {}).get("name")
        if not secret:
            return None
        kept = await cluster.get(SECRETS, secret)
        return base64.b64decode(kept["data"]["token"]).decode(), item

    found: tuple[str, dict[str, Any]] = await eventually(read)
    return found


async def test_an_object_that_was_made_by_hand_gets_a_token_with_which_it_can_call(
    own_kube: Kube, controller: Start
) -> None:
    async with own_kube.cluster() as cluster, controller() as lab:
        made = await cluster.create(EXPORTERS, {"metadata": {"name": "board", "labels": {"board": "rpi"}}})
        token, item = await credential(cluster, EXPORTERS, "board")

        assert item["status"]["endpoint"] == lab.endpoint
        secret = await cluster.get(SECRETS, "board-exporter")
        assert secret["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
        assert secret["type"] == "Opaque"
        key = Key(Kind.EXPORTER, "default", "board")
        login = Login(key=key, token=token, endpoint=lab.endpoint, ca=lab.ca)
        async with lab.serving_exporter("board", login=login):
            online = await lab.until(key, lambda record: record.online)
            assert online.meta.labels["board"] == "rpi"


async def test_what_peers_have_to_trust_is_where_tools_look_for_it(own_kube: Kube, controller: Start) -> None:
    async with own_kube.cluster() as cluster, controller() as lab:
        kept = await eventually(lambda: cluster.get(CONFIG_MAPS, "jumpstarter-service-ca-cert"))
        assert kept["data"] == {"ca.crt": lab.ca}


async def test_a_deleted_secret_is_replaced_by_one_with_another_token(own_kube: Kube, controller: Start) -> None:
    async with own_kube.cluster() as cluster, controller():
        await cluster.create(CLIENTS, {"metadata": {"name": "alice"}})
        first, _ = await credential(cluster, CLIENTS, "alice")
        await cluster.delete(SECRETS, "alice-client")

        async def another() -> Any:
            kept = await cluster.get(SECRETS, "alice-client")
            token = base64.b64decode(kept["data"]["token"]).decode()
            return token if token != first else None

        assert await eventually(another)


async def test_a_token_that_was_issued_by_a_call_is_kept_too(own_kube: Kube, controller: Start) -> None:
    async with own_kube.cluster() as cluster, controller() as lab:
        await leading(lab)
        login = await lab.client("alice")
        token, _ = await credential(cluster, CLIENTS, "alice")
        assert token == login.token
        # Nobody has given it another one meanwhile, which would end this one.
        await anyio.sleep(0.3)
        assert (await credential(cluster, CLIENTS, "alice"))[0] == login.token


async def test_secrets_go_with_their_objects(own_kube: Kube, controller: Start) -> None:
    async with own_kube.cluster() as cluster, controller() as lab:
        await leading(lab)
        await lab.client("alice")
        await credential(cluster, CLIENTS, "alice")
        await cluster.delete(CLIENTS, "alice")
        with pytest.raises(NotFound):
            await cluster.get(SECRETS, "alice-client")
        await become(lambda: lab.lab.account(Key(Kind.CLIENT, "default", "alice")) is None)


async def test_one_of_two_decides_and_the_other_one_takes_over(own_kube: Kube, controller: Start) -> None:
    slow = Terms(duration=20, deadline=15, interval=0.1)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(own_kube.cluster())
        second = await stack.enter_async_context(controller("second", slow))
        await leading(second)
        async with controller("first", slow) as first:
            assert not first.lab.leading
            # Asked for at the one that does not decide, granted all the same.
            alice = await first.client("alice")
            await second.until(alice.key, lambda record: record.credential.jti)
            async with scripted_exporter(second, "board"), alice.stubs() as stubs:
                lease = client_pb2.Lease(exporter_name="board")
                lease.duration.FromSeconds(60)
                request = client_pb2.CreateLeaseRequest(parent="namespaces/default", lease=lease)
                made = await stubs.client.CreateLease(request)
                name = made.name.rpartition("/")[2]
                granted = await first.until(Key(Kind.LEASE, "default", name), lambda record: record.exporter)
                assert granted.exporter == "board"
                item = await cluster.get(LEASES, name)
                assert item["status"]["exporterRef"]["name"] == "board"
                assert item["status"]["conditions"][-1]["type"] == "Ready"
    # It has given the lead away, so nobody waits for the duration to be over.
    async with controller("third", slow) as third:
        await leading(third)


async def test_a_lease_that_was_made_and_released_by_hand_is_granted_and_ends(
    own_kube: Kube, controller: Start
) -> None:
    async with own_kube.cluster() as cluster, controller() as lab:
        await leading(lab)
        await lab.client("alice")
        async with scripted_exporter(lab, "board", labels={"board": "rpi"}):
            spec = {"clientRef": {"name": "alice"}, "duration": "10m", "selector": {"matchLabels": {"board": "rpi"}}}
            await cluster.create(LEASES, {"metadata": {"name": "by-hand"}, "spec": spec})
            key = Key(Kind.LEASE, "default", "by-hand")
            await lab.until(key, lambda record: record.exporter == "board")

            await cluster.patch(LEASES, "by-hand", {"spec": {"release": True}})
            await lab.until(key, lambda record: record.ended)
            item = await cluster.get(LEASES, "by-hand")
            assert item["metadata"]["labels"]["jumpstarter.dev/lease-ended"] == "true"
            assert item["status"]["conditions"][-1]["reason"] == "Released"
            board = await cluster.get(EXPORTERS, "board")
            assert "leaseRef" not in board["status"]
