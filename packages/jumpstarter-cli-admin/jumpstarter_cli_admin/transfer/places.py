"""The two places where a lab can be: a folder, while nobody serves it, and a namespace of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_controller.cluster.election import NAME as ELECTION
from jumpstarter_controller.model.records import Kind, Record
from jumpstarter_controller.server import STORE_FILE
from jumpstarter_controller.store.base import Changed, Current, Store
from jumpstarter_controller.store.kubernetes import KubernetesStore
from jumpstarter_controller.store.kubernetes.objects import RESOURCES, encode
from jumpstarter_controller.store.sqlite import SQLiteStore
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, NotFound
from jumpstarter_kubernetes.resources import COORDINATION_LEASES, SECRETS
from jumpstarter_kubernetes.values import to_time

from ..cluster.errors import told

ALIVE = timedelta(seconds=60)
"""A controller that gave a sign of life since then runs."""


class Place(Protocol):
    """Where a lab is, or is to be."""

    namespace: str
    """The one in which everything there is; empty when there may be several."""

    def __str__(self) -> str: ...

    def check(self, *, source: bool) -> None:
        """Raise `ConfigurationError` when there is nothing to be read (as a source), before anything is opened."""
        ...

    def open(self) -> AbstractAsyncContextManager[Store]:
        """Return what holds the records, to be opened."""
        ...

    async def prepare(self, records: Sequence[Record]) -> None:
        """Raise when what is to be written there can't be, as far as that can be told without writing."""
        ...

    def next_step(self) -> str:
        """Return what to do after an import."""
        ...


@dataclass
class Folder:
    """The folder of a lab of `jmp controller run`, which must not run meanwhile."""

    path: Path
    namespace: str = ""

    def __str__(self) -> str:
        return f"the folder {self.path}"

    def check(self, *, source: bool) -> None:
        if source and not (self.path / STORE_FILE).exists():
            raise ConfigurationError(
                f"there is no lab in {self.path}: it has no {STORE_FILE}. Say where it is by --data"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(f"{self.path} is no folder")

    def open(self) -> AbstractAsyncContextManager[Store]:
        return SQLiteStore(self.path / STORE_FILE, backup_every=None)

    async def prepare(self, records: Sequence[Record]) -> None:
        return

    def next_step(self) -> str:
        return f"Start the lab with: jmp controller run --data {self.path}"


class InCluster:
    """A namespace of a cluster."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str) -> None:
        self._cluster = Cluster.from_config(kubeconfig, context, namespace)
        self.namespace = namespace

    def __str__(self) -> str:
        return f"the namespace {self.namespace} of the cluster"

    def check(self, *, source: bool) -> None:
        return

    def open(self) -> AbstractAsyncContextManager[Store]:
        return KubernetesStore(self._cluster, own_namespace=True)

    async def prepare(self, records: Sequence[Record]) -> None:
        await self._check_nobody_serves()
        tried: set[str] = set()
        for record in records:
            resource = RESOURCES[record.key.kind]
            if resource.full_name in tried:
                continue
            tried.add(resource.full_name)
            body = encode(record)
            body.pop("status", None)
            with told(record.key.kind.value, record.key.name, self.namespace):
                try:
                    await self._cluster.create(resource, body, dry_run=True)
                except AlreadyExists:
                    # It may be the same one, of an import that was ended half way.
                    continue
        with told("secret", "of the lab", self.namespace):
            await self._cluster.create(SECRETS, {"metadata": {"generateName": "jumpstarter-lab-"}}, dry_run=True)

    async def _check_nobody_serves(self) -> None:
        """Raise when one of our controllers runs: it would go on with the keys that it has."""
        try:
            lease = await self._cluster.get(COORDINATION_LEASES, ELECTION)
        except NotFound:
            return
        spec = lease.get("spec") or {}
        if not spec.get("holderIdentity") or not spec.get("renewTime"):
            return
        if datetime.now(UTC) - to_time(spec["renewTime"]) < ALIVE:
            raise ConfigurationError(
                f"{spec['holderIdentity']} serves a lab in {self} at present. Stop all controllers there first, with "
                f"something like: kubectl -n {self.namespace} scale deployment jumpstarter-controller --replicas 0"
            )

    def next_step(self) -> str:
        return f"Start the controllers in {self}, with an endpoint that the configs of peers name or are given."


async def everything(store: Store, kinds: Iterable[Kind]) -> list[Record]:
    """Return all records of some kinds, in their order; of leases those that have not ended."""
    found: list[Record] = []
    async with store.watch(*kinds) as events:
        async for event in events:
            if isinstance(event, Changed):
                found.append(event.record)
            elif isinstance(event, Current):
                break
            else:
                found.clear()
    return sorted(found, key=lambda record: record.key)


__all__ = ["ClusterError", "Folder", "InCluster", "Place", "everything"]
