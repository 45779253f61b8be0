"""Which controllers serve a lab at present: each renews a coordination lease, and sees those of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Gone, NotFound
from jumpstarter_kubernetes.resources import COORDINATION_LEASES

from ..store.kubernetes.values import PREFIX

logger = logging.getLogger(__name__)

LABEL = f"{PREFIX}replica"
ADDRESS = f"{PREFIX}peer"
"""Annotation with the address at which the others reach a controller."""

NAME = "jumpstarter-replica-"


@dataclass(frozen=True)
class Patience:
    """Times in seconds."""

    interval: float = 5.0
    """Between two signs of life."""
    gone: float = 15.0
    """Without a sign of life a controller counts as gone."""
    forgotten: float = 3600.0
    """The lease of one that is gone is removed then."""


@dataclass
class _Seen:
    address: str
    renewed: str
    since: float
    """When the last sign of life was seen here; clocks are not compared."""


class Membership:
    """The controllers, as this one sees them.

    Args:
        address: where this one is reached by the others.
        changed: is called when one has come or gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        identity: str,
        address: str,
        changed: Callable[[], None],
        *,
        patience: Patience | None = None,
    ) -> None:
        self.identity = identity
        self._cluster = cluster
        self._address = address
        self._changed = changed
        self._patience = patience or Patience()
        self._seen: dict[str, _Seen] = {}
        self._known: frozenset[str] = frozenset()
        self._away = 0.0
        """When the cluster was lost; nobody is declared gone by one who can't see."""

    def alive(self, identity: str) -> bool:
        """Return whether a controller is there."""
        return identity == self.identity or identity in self._alive()

    @property
    def others(self) -> Mapping[str, str]:
        """Addresses of the other controllers by identity."""
        alive = self._alive()
        return {name: seen.address for name, seen in self._seen.items() if name in alive}

    def _alive(self) -> frozenset[str]:
        now = self._away or anyio.current_time()
        return frozenset(
            name
            for name, seen in self._seen.items()
            if name != self.identity and now - seen.since < self._patience.gone
        )

    async def run(self) -> None:
        """Be a member until cancelled; the others are told at once of the end."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow)
                while True:
                    await self._renew()
                    self._look()
                    await anyio.sleep(self._patience.interval)
        finally:
            with anyio.move_on_after(self._patience.interval, shield=True):
                await self._leave()

    def _look(self) -> None:
        alive = self._alive()
        if alive == self._known:
            return
        for name in sorted(self._known - alive):
            logger.info("controller %s is gone", name)
        for name in sorted(alive - self._known):
            logger.info("controller %s is there", name)
        self._known = alive
        self._changed()

    # -- own lease ---------------------------------------------------------------------------------

    async def _renew(self) -> None:
        name = NAME + self.identity.lower()
        body: dict[str, Any] = {
            "metadata": {"name": name, "labels": {LABEL: "true"}, "annotations": {ADDRESS: self._address}},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self._patience.gone)),
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        try:
            with anyio.move_on_after(self._patience.gone):
                try:
                    await self._cluster.patch(COORDINATION_LEASES, name, body)
                except NotFound:
                    await self._cluster.create(COORDINATION_LEASES, body)
        except AlreadyExists:
            return
        except ClusterError as error:
            logger.warning("the other controllers can't be told that this one is there: %s", error)

    async def _leave(self) -> None:
        try:
            await self._cluster.delete(COORDINATION_LEASES, NAME + self.identity.lower())
        except ClusterError as error:
            logger.info("the other controllers learn only in time that this one has gone: %s", error)

    # -- those of the others -----------------------------------------------------------------------

    async def _follow(self) -> None:
        version = ""
        while True:
            try:
                if not version:
                    page = await self._cluster.list(COORDINATION_LEASES, labels=f"{LABEL}=true")
                    for item in page.items:
                        self._take(item)
                    version = page.version
                    await self._forget(page.items)
                async with self._cluster.watch(COORDINATION_LEASES, version=version, labels=f"{LABEL}=true") as events:
                    self._back()
                    async for event in events:
                        version = event.object["metadata"]["resourceVersion"]
                        if event.type == "DELETED":
                            self._seen.pop(_identity(event.object), None)
                        elif event.type != "BOOKMARK":
                            self._take(event.object)
                        self._look()
            except Gone:
                version = ""
            except ClusterError:
                self._away = self._away or anyio.current_time()
                await anyio.sleep(1)

    def _back(self) -> None:
        """Give all the time for a sign of life that they had when the cluster was lost."""
        if not self._away:
            return
        lost = anyio.current_time() - self._away
        for seen in self._seen.values():
            seen.since += lost
        self._away = 0.0

    def _take(self, item: dict[str, Any]) -> None:
        identity, renewed = _identity(item), str((item.get("spec") or {}).get("renewTime"))
        address = (item["metadata"].get("annotations") or {}).get(ADDRESS, "")
        known = self._seen.get(identity)
        if known is None:
            self._seen[identity] = _Seen(address, renewed, anyio.current_time())
        elif known.renewed != renewed or known.address != address:
            known.address, known.renewed, known.since = address, renewed, anyio.current_time()

    async def _forget(self, items: list[dict[str, Any]]) -> None:
        """Remove leases of controllers that went without a word long ago, by the clock of whoever is there."""
        for item in items:
            renewed = str((item.get("spec") or {}).get("renewTime") or "")
            try:
                age = datetime.now(UTC) - datetime.fromisoformat(renewed)
            except ValueError:
                continue
            if age.total_seconds() > self._patience.forgotten:
                meta = item["metadata"]
                try:
                    await self._cluster.delete(COORDINATION_LEASES, meta["name"], version=meta["resourceVersion"])
                except ClusterError:
                    continue


def _identity(item: dict[str, Any]) -> str:
    return str((item.get("spec") or {}).get("holderIdentity") or item["metadata"]["name"].removeprefix(NAME))
