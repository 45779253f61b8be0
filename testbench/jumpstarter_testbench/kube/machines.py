"""What in a cluster has deployments run; here, where only the API is, it says that they do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from jumpstarter_kubernetes.cluster import Cluster


@asynccontextmanager
async def machines(cluster: Cluster, works: Callable[[str], bool] = lambda name: True) -> AsyncIterator[list[str]]:
    """Have deployments of all namespaces get ready while the body runs; yields their names in that order.

    Args:
        works: says which of them do.
    """
    from jumpstarter_kubernetes.resources import DEPLOYMENTS

    done: list[str] = []

    async def get_ready(item: dict[str, Any]) -> None:
        meta = item["metadata"]
        if not works(meta["name"]) or (item.get("status") or {}).get("observedGeneration") == meta["generation"]:
            return
        count = item["spec"]["replicas"]
        status = {"observedGeneration": meta["generation"]}
        status |= dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
        done.append(meta["name"])
        await cluster.patch(DEPLOYMENTS, meta["name"], {"status": status}, namespace=meta["namespace"], status=True)

    async def follow() -> None:
        async with cluster.watch(DEPLOYMENTS, version="0", all_namespaces=True) as events:
            async for event in events:
                if event.type in ("ADDED", "MODIFIED"):
                    await get_ready(event.object)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        yield done
        tasks.cancel_scope.cancel()
