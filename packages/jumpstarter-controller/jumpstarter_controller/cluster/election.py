"""Which of several controllers decides: the holder of a coordination lease, as Kubernetes' own controllers elect."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Conflict, NotFound
from jumpstarter_kubernetes.resources import COORDINATION_LEASES

logger = logging.getLogger(__name__)

NAME = "jumpstarter-lab"


@dataclass(frozen=True)
class Terms:
    """Times of an election, in seconds; each has to be clearly shorter than the one before."""

    duration: float = 12.0
    """After so long without a sign of life another one may lead."""
    deadline: float = 8.0
    """Who could not renew for so long doesn't lead any more."""
    interval: float = 2.0
    """Between two attempts."""


class Election:
    """Takes part in an election for as long as it runs.

    Clocks are not compared: a holder counts as gone when its lease hasn't changed for the duration, as seen from here.

    Args:
        identity: of this process, unlike that of any other.
        lead: is called when leading begins (True) and when it has ended (False).
    """

    def __init__(
        self,
        cluster: Cluster,
        identity: str,
        lead: Callable[[bool], Awaitable[None]],
        *,
        name: str = NAME,
        terms: Terms | None = None,
    ) -> None:
        self.identity = identity
        self.leader = ""
        """Who leads, as far as it is known."""
        self._cluster = cluster
        self._lead = lead
        self._name = name
        self._terms = terms or Terms()
        self._leading = False
        self._seen: tuple[str, Any] = ("", None)
        self._since = 0.0
        self._renewed = 0.0

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled; give the lead away then."""
        try:
            while True:
                await self._turn()
                await anyio.sleep(self._terms.interval)
        finally:
            with anyio.move_on_after(self._terms.interval, shield=True):
                await self._resign()

    async def _turn(self) -> None:
        begun = anyio.current_time()
        held = False
        try:
            with anyio.move_on_after(self._terms.deadline):
                held = await self._try()
        except ClusterError as error:
            logger.warning("the election can't be taken part in for now: %s", error)
            held = self._leading
        else:
            if held:
                self._renewed = begun
        if self._leading and anyio.current_time() - self._renewed > self._terms.deadline:
            held = False
        await self._set(held)

    async def _set(self, leading: bool) -> None:
        if leading is self._leading:
            return
        self._leading = leading
        logger.info("%s %s", self.identity, "leads" if leading else "does not lead any more")
        await self._lead(leading)

    async def _try(self) -> bool:
        """Take or renew the lease; return whether it is held here."""
        try:
            item = await self._cluster.get(COORDINATION_LEASES, self._name)
        except NotFound:
            return await self._create()
        spec = item.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        sight = holder, spec.get("renewTime")
        if sight != self._seen:
            self._seen, self._since = sight, anyio.current_time()
        self.leader = holder
        if holder and holder != self.identity:
            patience = float(spec.get("leaseDurationSeconds") or self._terms.duration)
            if anyio.current_time() - self._since < patience:
                return False
            logger.info("%s has not been heard of for %.0f s", holder, patience)
        changed = {**spec, **self._spec()}
        if holder != self.identity:
            changed |= {"acquireTime": _now(), "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        try:
            await self._cluster.replace(COORDINATION_LEASES, {**item, "spec": changed})
        except Conflict:
            return False
        self.leader = self.identity
        self._seen, self._since = (self.identity, changed["renewTime"]), anyio.current_time()
        return True

    async def _create(self) -> bool:
        spec = {**self._spec(), "acquireTime": _now(), "leaseTransitions": 0}
        try:
            await self._cluster.create(COORDINATION_LEASES, {"metadata": {"name": self._name}, "spec": spec})
        except AlreadyExists:
            return False
        self.leader = self.identity
        return True

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._terms.duration)),
            "renewTime": _now(),
        }

    async def _resign(self) -> None:
        """Have another one lead at once."""
        if not self._leading:
            return
        await self._set(False)
        try:
            item = await self._cluster.get(COORDINATION_LEASES, self._name)
            if (item.get("spec") or {}).get("holderIdentity") == self.identity:
                spec = {**item["spec"], "holderIdentity": "", "renewTime": _now()}
                await self._cluster.replace(COORDINATION_LEASES, {**item, "spec": spec})
        except ClusterError as error:
            logger.info("the lead could not be given away: %s", error)


def _now() -> str:
    """Return the time as Kubernetes' MicroTime has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
