"""What a client asks of the controller: one module per thing that it can ask about.

A module holds a class derived from `Asking`, whose methods are written once and used in two places, each of which says
in `_calls` how the controller is reached: `jumpstarter.client.grpc.ClientService` has a channel already, a client
config (`jumpstarter.config.controller`) opens one for each call. A new rpc is a method in one of these modules, or in
a new one, and a line in each of the two places that names it.

Nothing here is imported before it is needed: configs are read by commands that call nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakSet

RPC_TIMEOUT = 60.0
"""Seconds that the controller may take to answer."""
PAGE_SIZE = 100
"""Objects that are asked for at a time."""

_without_lab_service: WeakSet[Any] = WeakSet()
"""Channels to controllers that are known not to have `LabService`."""


class LabService(NamedTuple):
    """The stub of `jumpstarter.lab.v1.LabService`, and the module of its messages, `lab_pb2`."""

    stub: Any
    pb: Any


@dataclass(frozen=True)
class Calls:
    """An open way to `jumpstarter.client.v1.ClientService`, within one namespace."""

    stub: Any
    pb: Any
    """Module of the messages, `client_pb2`."""
    parent: str
    """`namespaces/<namespace>`."""
    channel: Any = None

    @property
    def lab(self) -> LabService | None:
        """The service for what the published protocol has no words for; None for a controller that lacks it."""
        if self.channel is None or self.channel in _without_lab_service:
            return None
        from jumpstarter_protocol.jumpstarter.lab.v1 import lab_pb2, lab_pb2_grpc

        return LabService(lab_pb2_grpc.LabServiceStub(self.channel), lab_pb2)

    def note_missing_lab(self) -> None:
        """Remember, for as long as there is the channel, that its controller has no `LabService`."""
        if self.channel is not None:
            _without_lab_service.add(self.channel)

    async def unary(self, rpc: str, request: Any) -> Any:
        """Send the request of a unary rpc and return the answer."""
        from jumpstarter.common.cancellation import answer

        return await answer(getattr(self.stub, rpc)(request, timeout=RPC_TIMEOUT))

    def named(self, kind: str, name: str) -> str:
        """Return what the controller calls the object `name`; `kind` is a plural such as `leases`."""
        return f"{self.parent}/{kind}/{name}"


class Asking:
    """Has a way to the controller."""

    def _calls(self) -> AbstractAsyncContextManager[Calls]:
        """Open the way to the controller; errors of the calls are translated.

        Raises, in the body:
            ConnectionError: the controller can't be reached or refuses; of `jumpstarter.common.exceptions`.
            ConfigurationError: an argument can't be sent, or the answer can't be read.
        """
        raise NotImplementedError


async def all_pages(fetch: Callable[[str | None], Awaitable[Any]], items: Callable[[Any], list[Any]]) -> list[Any]:
    """Return the items of all pages; a controller that repeats a page token is not followed in circles."""
    found: list[Any] = []
    token: str | None = None
    seen = set()
    while True:
        page = await fetch(token)
        found.extend(items(page))
        token = page.next_page_token or None
        if token is None or token in seen:
            return found
        seen.add(token)
