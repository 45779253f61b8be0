"""Tells the controller whether an exporter takes further leases, and makes sure that it knows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import grpc

from .controller import Controller, Refused

__all__ = ["Draining"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Draining:
    """Whether one exporter is draining: it finishes the lease that it has, and takes no further one.

    Controllers that don't know of draining assign leases to every exporter whose drivers they know; with them the
    exporter unregisters while it drains, when its lease is over.
    """

    controller: Controller
    register: Callable[[], Awaitable[None]]
    has_lease: Callable[[], bool]
    wanted: bool = field(default=False, init=False)
    _reason: str = field(default="", init=False)
    _told: bool | None = field(default=None, init=False)
    _by_registration: bool = field(default=False, init=False)
    registered: bool = field(default=True, init=False)
    """Whether the controller knows the drivers, as far as this decides about it."""
    _news: anyio.Event = field(default_factory=anyio.Event, init=False)

    def set(self, draining: bool, reason: str = "") -> None:
        """Have the controller told."""
        if draining != self.wanted:
            logger.info("%s", "taking no further leases" if draining else "taking leases again")
        self.wanted, self._reason = draining, reason
        self.wake()

    def repeat(self) -> None:
        """Have a controller told again that may have forgotten it."""
        self._told = None
        self.wake()

    def wake(self) -> None:
        """Look again: a lease has begun or ended."""
        self._news.set()

    async def run(self) -> None:
        """Tell the controller until cancelled."""
        while True:
            self._news = anyio.Event()
            wanted = self.wanted
            if self._told != wanted:
                await self._tell(wanted)
                self._told = wanted
            elif self._by_registration and self.registered != (not wanted or self.has_lease()):
                await self._register(not self.registered)
            else:
                await self._news.wait()

    async def _tell(self, draining: bool) -> None:
        if self._by_registration:
            return
        try:
            await self.controller.drain(draining, self._reason)
        except Refused as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                self._by_registration = True
            else:
                logger.warning("%s", error)

    async def _register(self, registered: bool) -> None:
        try:
            if registered:
                await self.register()
            else:
                await self.controller.unregister(self._reason or "the exporter takes no leases for now")
        except Refused as error:
            logger.warning("%s", error)
        self.registered = registered
