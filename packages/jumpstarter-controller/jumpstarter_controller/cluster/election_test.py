"""Elections: one leads, another one takes over soon, and nobody leads who can't be sure of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from jumpstarter_kubernetes.resources import COORDINATION_LEASES
from jumpstarter_testbench.kube.fixtures import Kube

from .election import NAME, Election, Terms

QUICK = Terms(duration=1.0, deadline=0.6, interval=0.1)


class Candidate:
    """One who takes part, and what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[bool] = []
        self.changed = anyio.Event()

    async def lead(self, leading: bool) -> None:
        self.told.append(leading)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, leading: bool) -> None:
        with anyio.fail_after(20):
            while (self.told or [False])[-1] is not leading:
                await self.changed.wait()


@asynccontextmanager
async def taking_part(kube: Kube, name: str, terms: Terms = QUICK) -> AsyncGenerator[Candidate, None]:
    candidate = Candidate(name)
    async with kube.cluster() as cluster, anyio.create_task_group() as tasks:
        tasks.start_soon(Election(cluster, name, candidate.lead, terms=terms).run)
        yield candidate
        tasks.cancel_scope.cancel()


async def test_the_only_one_leads(own_kube: Kube) -> None:
    async with taking_part(own_kube, "one") as one:
        await one.until(True)
        async with own_kube.cluster() as cluster:
            held = await cluster.get(COORDINATION_LEASES, NAME)
    assert held["spec"]["holderIdentity"] == "one"


async def test_of_several_one_leads_and_who_leaves_hands_over_at_once(own_kube: Kube) -> None:
    slow = Terms(duration=30, deadline=20, interval=0.1)
    async with taking_part(own_kube, "second", slow) as second:
        await second.until(True)
        async with taking_part(own_kube, "third", slow) as third:
            await anyio.sleep(0.5)
            assert third.told == []
            async with taking_part(own_kube, "fourth", slow) as fourth:
                await anyio.sleep(0.3)
                assert fourth.told == []
    assert second.told == [True, False]

    # A long duration does not hold up who follows one that has resigned.
    async with taking_part(own_kube, "next", slow) as following:
        await following.until(True)


async def test_a_leader_that_dies_is_followed_after_the_duration(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        dead = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2020-01-01T00:00:00.000000Z"}
        await cluster.create(COORDINATION_LEASES, {"metadata": {"name": NAME}, "spec": dead})
        async with taking_part(own_kube, "next") as following:
            await anyio.sleep(0.4)
            # Its clock may be wrong: only that nothing changes counts.
            assert following.told == []
            await following.until(True)
        held = await cluster.get(COORDINATION_LEASES, NAME)
    assert held["spec"]["leaseTransitions"] == 1
    assert held["spec"]["holderIdentity"] == ""


async def test_who_can_not_renew_ceases_to_lead_and_leads_again_when_it_can(own_kube: Kube) -> None:
    async with taking_part(own_kube, "one") as one:
        await one.until(True)
        own_kube.stop()
        await one.until(False)
        own_kube.start()
        await one.until(True)
    assert one.told == [True, False, True, False]


@pytest.mark.parametrize("status", [500, 403])
async def test_a_server_that_refuses_makes_nobody_lead(own_kube: Kube, status: int) -> None:
    own_kube.server.faults.refuse_writes = status
    async with taking_part(own_kube, "one") as one:
        await anyio.sleep(0.5)
        assert one.told == []
        own_kube.server.faults.refuse_writes = 0
        await one.until(True)
