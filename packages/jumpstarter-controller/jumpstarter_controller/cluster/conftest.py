"""Controllers that share a cluster, with short times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter_testbench.kube.fixtures import Kube

from ..store.kubernetes import KubernetesStore
from ..testing import RunningLab, running_lab
from .election import Terms
from .member import Member
from .membership import Patience

QUICK = Terms(duration=1.5, deadline=1.0, interval=0.1)
SHORT = Patience(interval=0.3, gone=1.5)

Start = Callable[..., AbstractAsyncContextManager[RunningLab]]


@pytest.fixture
def controller(own_kube: Kube, tmp_path: Path) -> Start:
    """Run a controller of the cluster; arguments are its name, the terms of elections, and settings."""

    @asynccontextmanager
    async def start(name: str = "one", terms: Terms = QUICK, **settings: Any) -> AsyncIterator[RunningLab]:
        cluster = own_kube.cluster()
        member = Member(cluster, identity=name, terms=terms, patience=SHORT)
        options = {"store": KubernetesStore(cluster, own_namespace=True), "member": member}
        async with running_lab(tmp_path / name, server=options, **settings) as lab:
            yield lab

    return start


async def leading(lab: RunningLab) -> None:
    """Wait until a controller decides."""
    await become(lambda: lab.lab.leading)


async def become(condition: Callable[[], bool], patience: float = 20.0) -> None:
    """Wait until something of which nobody tells is so."""
    with anyio.fail_after(patience):
        while True:
            if condition():
                return
            await anyio.sleep(0.05)
