"""A lab for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .simulation import Simulation


@pytest.fixture
async def lab() -> AsyncIterator[Simulation]:
    """A running lab with clients alice, bob and carol, whose books are checked at the end."""
    simulation = Simulation()
    async with simulation.running():
        await simulation.clients("alice", "bob", "carol")
        yield simulation
        await simulation.settle()
        simulation.check()
