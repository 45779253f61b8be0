"""A controller as one of several in a cluster: it serves at once, and decides when it is elected."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from jumpstarter_kubernetes.cluster import Cluster

from ..identity.authority import Authority
from ..listening import join_address, split_address
from ..model.records import Key, Kind
from .election import Election, Terms
from .membership import Membership, Patience
from .passes import Passes
from .peers import Peers, PeerService, serving_peers
from .provisioning import Provisioner

if TYPE_CHECKING:
    from ..server import LabServer

POD_IP = "POD_IP"
"""Environment variable with the address of the pod, from the downward API."""


def new_identity() -> str:
    """Return a name for this process that no other one has, not even the next one in the same pod."""
    return f"{socket.gethostname()}-{secrets.token_hex(3)}".lower()


class Member:
    """What a controller does beside serving.

    Args:
        cluster: the connection of the store, which is open while the lab runs.
        identity: None for a new one.
        listen: address for the other controllers; the port 0 for a free one.
        endpoint: where they reach it; empty for the address, or that of the pod.
        routers: names of routers that get an account, with their tokens in Secrets.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        identity: str | None = None,
        listen: str = "127.0.0.1:0",
        endpoint: str = "",
        routers: Sequence[str] = (),
        terms: Terms | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.cluster = cluster
        self.identity = identity or new_identity()
        self._listen = listen
        self._endpoint = endpoint
        self._routers = tuple(routers)
        self._terms = terms
        self._patience = patience
        self._leading = anyio.Event()
        self._following = anyio.Event()
        self._membership: Membership | None = None
        self._peers: Peers | None = None

    @property
    def place(self) -> str:
        """Where the records are, for people."""
        return f"the namespace {self.cluster.namespace} of {self.cluster.server}"

    # -- what the engine has to know ---------------------------------------------------------------

    def alive(self, identity: str) -> bool:
        """Return whether another controller is there."""
        return self._membership is None or self._membership.alive(identity)

    def tell_used(self, lease: Key) -> None:
        """Have the one that decides know that a lease is used."""
        if self._peers is not None:
            self._peers.tell_used(lease)

    # -- being one ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, server: LabServer) -> AsyncGenerator[None, None]:
        """Take part in the election, and do what leaders do while this one is it.

        Raises:
            ConfigurationError: the address for the others can't be listened on.
        """
        lab = server.lab
        provisioner = Provisioner(
            self.cluster,
            lab,
            server.authenticator.tokens,
            endpoint=server.endpoint,
            ca=server.ca,
            routers=[Key(Kind.ROUTER, self.cluster.namespace, name) for name in self._routers],
        )
        lab.token_keeper = provisioner.keep
        election = Election(self.cluster, self.identity, lambda leading: self._lead(server, leading), terms=self._terms)
        self._following.set()

        async def provision() -> None:
            while True:
                await self._leading.wait()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(provisioner.run)
                    await self._following.wait()
                    tasks.cancel_scope.cancel()

        async with AsyncExitStack() as stack:
            authority = await Authority.load(server.store, server.clock)
            passes = Passes(server.keys.stream, server.clock, self.identity)
            service = PeerService(lab, server.switchboard, passes)
            serving = serving_peers(service, authority, server.clock, self._listen, "")
            address = await stack.enter_async_context(serving)
            membership = self._membership = Membership(
                self.cluster, self.identity, self._told(address), lab.expect_all, patience=self._patience
            )
            peers = self._peers = Peers(lab, authority, passes, lambda: membership.others, lambda: election.leader)
            stack.push_async_callback(peers.close)
            server.switchboard.elsewhere = peers.dial
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(membership.run)
                tasks.start_soon(election.run)
                tasks.start_soon(provision)
                tasks.start_soon(peers.run)
                yield
                tasks.cancel_scope.cancel()

    async def _lead(self, server: LabServer, leading: bool) -> None:
        await server.lab.lead(leading)
        if leading:
            self._following = anyio.Event()
            self._leading.set()
        else:
            self._leading = anyio.Event()
            self._following.set()

    def _told(self, address: str) -> str:
        """Return where the others reach this one."""
        host, port = split_address(address)
        if self._endpoint:
            return self._endpoint
        if host in ("", "0.0.0.0", "::"):
            host = os.environ.get(POD_IP) or socket.gethostname()
        return join_address(host, port)
