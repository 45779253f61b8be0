"""Who may reach the session of a lease without a router, and until when."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from anyio import CancelScope
from jumpstarter_protocol import jumpstarter_pb2

from .authority import LeaseAuthority
from .callers import Caller, Role

__all__ = ["Grant", "Grants"]

logger = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds that a client keeps its right when no connection of it comes through the controller any more."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks at who has no such connection."""


@dataclass(eq=False)
class Grant:
    """The right of one client in one role."""

    caller: Caller
    name: str
    """In its certificate; random."""
    endpoints: list[jumpstarter_pb2.Endpoint]
    alone_since: float | None = None
    """Monotonic time since which no connection of this client comes through the controller."""
    revoked: bool = False
    _connections: set[CancelScope] = field(default_factory=set)

    @contextmanager
    def connection(self) -> Generator[None, None, None]:
        """Cancel the body when the right ends."""
        with CancelScope() as scope:
            self._connections.add(scope)
            try:
                if self.revoked:
                    scope.cancel()
                yield
            finally:
                self._connections.discard(scope)

    def revoke(self) -> None:
        """End the right and all that was done by it."""
        self.revoked = True
        for scope in self._connections:
            scope.cancel()


class Grants:
    """The rights that exist in one lease.

    The controller decides who may come, connection by connection, and has those cut that have lost their right. So a
    client has a right here as long as it has a connection that came by the controller, and ends its right with it:
    at once when the router says that it was cut, else after a grace time in which it can come again. The time
    doesn't run while the controller can't be reached, when nobody could come.

    Args:
        endpoints: where clients reach the exporter, `host:port`.
        connected: tells whether the controller can be reached.
        grace: see GRACE.
    """

    def __init__(self, endpoints: Sequence[str], connected: Callable[[], bool], grace: float = GRACE) -> None:
        self._authority = LeaseAuthority()
        self._endpoints = endpoints
        self._connected = connected
        self._grace = grace
        self._by_caller: dict[Caller, Grant] = {}
        self._by_name: dict[str, Grant] = {}
        self._routed: Counter[Caller] = Counter()
        self._news = anyio.Event()

    def exporter_certificate(self) -> tuple[str, str, str]:
        """Return the authority's certificate, the exporter's one and its key, PEM."""
        return self._authority.certificate, *self._authority.exporter()

    # -- giving ----------------------------------------------------------------------------------

    def endpoints(self, caller: Caller) -> list[jumpstarter_pb2.Endpoint]:
        """Return what a client needs to come without a router; nothing for those who may only look on."""
        if caller.role is Role.WATCHER:
            return []
        grant = self._by_caller.get(caller)
        if grant is None:
            name = secrets.token_hex(16)
            certificate, key = self._authority.client(name)
            endpoints = [
                jumpstarter_pb2.Endpoint(
                    endpoint=endpoint,
                    certificate=self._authority.certificate,
                    client_certificate=certificate,
                    client_private_key=key,
                )
                for endpoint in self._endpoints
            ]
            grant = self._by_caller[caller] = self._by_name[name] = Grant(caller, name, endpoints)
            if not self._routed[caller]:
                grant.alone_since = time.monotonic()
            self._news.set()
        return grant.endpoints

    def find(self, name: str) -> Grant | None:
        """Return the grant whose certificate bears `name`, unless it was taken back."""
        return self._by_name.get(name)

    # -- taking back -----------------------------------------------------------------------------

    @contextmanager
    def routed(self, caller: Caller) -> Generator[None, None, None]:
        """Note that a client has a connection that came by the controller while the body runs."""
        for other in list(self._by_caller):
            # A client has one role; an earlier one is not valid any more.
            if other.client == caller.client and other.role is not caller.role:
                self._revoke(other)
        self._routed[caller] += 1
        if (grant := self._by_caller.get(caller)) is not None:
            grant.alone_since = None
        try:
            yield
        finally:
            self._routed[caller] -= 1
            if not self._routed[caller]:
                del self._routed[caller]
                if (grant := self._by_caller.get(caller)) is not None:
                    grant.alone_since = time.monotonic()

    def cut(self, caller: Caller) -> None:
        """Take back a right at once: the controller doesn't want this client any more, or not in this role."""
        self._revoke(caller)

    def handed_over(self, owner: str) -> None:
        """Take back the rights of former owners."""
        for caller in list(self._by_caller):
            if caller.role is Role.OWNER and caller.client != owner:
                self._revoke(caller)

    def _revoke(self, caller: Caller) -> None:
        grant = self._by_caller.pop(caller, None)
        if grant is not None:
            logger.info("client %s may not use the direct way any more", caller.client or "(unnamed)")
            del self._by_name[grant.name]
            grant.revoke()

    def revoke_all(self) -> None:
        """Take back every right: the lease is over."""
        for caller in list(self._by_caller):
            self._revoke(caller)

    async def run(self) -> None:
        """Take rights back whose grace time is over, until cancelled."""
        while True:
            if not self._by_caller:
                self._news = anyio.Event()
                await self._news.wait()
            await anyio.sleep(min(CHECK_INTERVAL, self._grace / 4))
            now = time.monotonic()
            for caller, grant in list(self._by_caller.items()):
                if grant.alone_since is None:
                    continue
                if not self._connected():
                    grant.alone_since = now
                elif now - grant.alone_since > self._grace:
                    self._revoke(caller)
