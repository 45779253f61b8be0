"""Does for the objects in the stand-in what a published controller does: credentials, endpoints, ends of leases.

Facts: it makes a Secret `NAME-client` or `NAME-exporter` with a `token`, owned by the object, sets `status.credential`
and `status.endpoint`, makes the Secret anew when it is deleted, and ends leases whose `spec.release` is set.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.from_thread import start_blocking_portal

from .fixtures import Kube

if TYPE_CHECKING:
    from jumpstarter_kubernetes.cluster import Cluster
    from jumpstarter_kubernetes.resources import Resource

ENDPOINT = "grpc.example.com:8082"
CA = "-----BEGIN CERTIFICATE-----\nof the lab\n-----END CERTIFICATE-----\n"


@contextmanager
def published_controller(kube: Kube, namespace: str) -> Iterator[None]:
    """Look after the objects of a namespace while the body runs, in a thread of its own."""
    from jumpstarter_kubernetes.resources import CLIENTS, CONFIG_MAPS, EXPORTERS, LEASES, SECRETS

    async def work(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with kube.cluster(namespace) as cluster, anyio.create_task_group() as tasks:
            body = {"metadata": {"name": "jumpstarter-service-ca-cert"}, "data": {"ca.crt": CA}}
            await cluster.create(CONFIG_MAPS, body)
            for resource in (CLIENTS, EXPORTERS):
                await tasks.start(_follow, cluster, resource, resource)
            await tasks.start(_follow, cluster, SECRETS, None)
            await tasks.start(_follow, cluster, LEASES, LEASES)
            task_status.started()

    with start_blocking_portal() as portal:
        future, _ = portal.start_task(work)
        try:
            yield
        finally:
            future.cancel()


async def _follow(
    cluster: Cluster, resource: Resource, kind: Resource | None, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    from jumpstarter_kubernetes.resources import CLIENTS, EXPORTERS, LEASES

    page = await cluster.list(resource)
    for item in page.items:
        await _provide(cluster, kind, item)
    task_status.started()
    async with cluster.watch(resource, version=page.version, timeout=600) as events:
        async for event in events:
            if event.type == "BOOKMARK":
                continue
            if kind is LEASES:
                await _end(cluster, event.object)
            elif kind is not None and event.type == "ADDED":
                await _provide(cluster, kind, event.object)
            elif kind is None and event.type == "DELETED":
                for owner in event.object["metadata"].get("ownerReferences") or ():
                    owned = CLIENTS if owner["kind"] == "Client" else EXPORTERS
                    page = await cluster.list(owned, fields=f"metadata.name={owner['name']}")
                    for item in page.items:
                        await _provide(cluster, owned, item)


async def _provide(cluster: Cluster, resource: Resource | None, item: dict[str, Any]) -> None:
    from jumpstarter_kubernetes.exceptions import AlreadyExists, NotFound
    from jumpstarter_kubernetes.resources import LEASES, SECRETS

    if resource is None or resource is LEASES:
        return
    meta = item["metadata"]
    name = f"{meta['name']}-{resource.kind.lower()}"
    owner = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }
    body = {
        "metadata": {"name": name, "ownerReferences": [owner]},
        "type": "Opaque",
        "data": {"token": base64.b64encode(f"token-{uuid.uuid4()}".encode()).decode()},
    }
    status = {"status": {"credential": {"name": name}, "endpoint": ENDPOINT}}
    try:
        await cluster.create(SECRETS, body)
        await cluster.patch(resource, meta["name"], status, status=True)
    except (AlreadyExists, NotFound):
        # It is there, or what it was for was deleted meanwhile.
        return


async def _end(cluster: Cluster, item: dict[str, Any]) -> None:
    from jumpstarter_kubernetes.resources import LEASES

    if not item["spec"].get("release") or (item.get("status") or {}).get("ended"):
        return
    name = item["metadata"]["name"]
    now = "2026-01-01T00:00:00Z"
    ended = {"type": "Ready", "status": "False", "reason": "Released", "message": "", "lastTransitionTime": now}
    status = {"ended": True, "endTime": now, "conditions": [{**ended, "observedGeneration": 1}]}
    await cluster.patch(LEASES, name, {"status": status}, status=True)
    await cluster.patch(LEASES, name, {"metadata": {"labels": {"jumpstarter.dev/lease-ended": "true"}}})
