"""A controller as one of several in a cluster: it serves at once, and decides when it is elected."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from jumpstarter_kubernetes.cluster import Cluster

from .election import Election, Terms
from .provisioning import Provisioner

if TYPE_CHECKING:
    from ..server import LabServer


def new_identity() -> str:
    """Return a name for this process that no other one has, not even the next one in the same pod."""
    return f"{socket.gethostname()}-{secrets.token_hex(3)}"


class Member:
    """What a controller does beside serving.

    Args:
        cluster: the connection of the store, which is open while the lab runs.
        identity: None for a new one.
    """

    def __init__(self, cluster: Cluster, *, identity: str | None = None, terms: Terms | None = None) -> None:
        self.cluster = cluster
        self.identity = identity or new_identity()
        self._terms = terms
        self._leading = anyio.Event()
        self._following = anyio.Event()

    @property
    def place(self) -> str:
        """Where the records are, for people."""
        return f"the namespace {self.cluster.namespace} of {self.cluster.server}"

    @asynccontextmanager
    async def running(self, server: LabServer) -> AsyncGenerator[None, None]:
        """Take part in the election, and do what leaders do while this one is it."""
        self._following.set()
        provisioner = Provisioner(
            self.cluster, server.lab, server.authenticator.tokens, endpoint=server.endpoint, ca=server.ca
        )
        server.lab.token_keeper = provisioner.keep

        async def lead(leading: bool) -> None:
            await server.lab.lead(leading)
            begin, end = (self._leading, "_following") if leading else (self._following, "_leading")
            setattr(self, end, anyio.Event())
            begin.set()

        async def provision() -> None:
            while True:
                await self._leading.wait()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(provisioner.run)
                    await self._following.wait()
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Election(self.cluster, self.identity, lead, terms=self._terms).run)
            tasks.start_soon(provision)
            yield
            tasks.cancel_scope.cancel()
