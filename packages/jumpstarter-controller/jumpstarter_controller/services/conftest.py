"""A lab for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jumpstarter_controller.testing import RunningLab, Stubs, running_lab


@pytest.fixture
async def lab(tmp_path: Path, one_loop: None) -> AsyncIterator[RunningLab]:
    """A lab that serves on the event loop of the test."""
    async with running_lab(tmp_path, leases={"offline_after": "PT1S"}) as running:
        yield running


@pytest.fixture
async def alice(lab: RunningLab) -> AsyncIterator[Stubs]:
    """The services as a client calls them."""
    async with (await lab.client("alice")).stubs() as stubs:
        yield stubs


@pytest.fixture
async def bob(lab: RunningLab) -> AsyncIterator[Stubs]:
    """The services as another client calls them."""
    async with (await lab.client("bob")).stubs() as stubs:
        yield stubs


@pytest.fixture
async def admin(lab: RunningLab) -> AsyncIterator[Stubs]:
    """The services as an admin calls them."""
    async with (await lab.admin("root")).stubs() as stubs:
        yield stubs
