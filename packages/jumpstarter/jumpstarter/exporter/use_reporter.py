"""Tells the controller what the clients of a lease use, in batches, so that leases can follow their use."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
from jumpstarter_protocol import lab_pb2

from .controller import Controller, Refused
from .uses import Uses

__all__ = ["UseReporter"]

logger = logging.getLogger(__name__)

GAP = 3.0
"""Seconds between two reports, at least."""

INTERVAL = 15.0
"""Seconds between two reports while something is in use, until the controller says how many it wants."""

FINISH_TIMEOUT = 2.0
"""Seconds that the last report of a lease may take."""


@dataclass(kw_only=True)
class UseReporter:
    """The reports of one lease."""

    controller: Controller
    lease_name: str
    uses: Uses
    names: Mapping[str, str]
    """Of drivers, by UUID."""
    gap: float = GAP
    _pending: lab_pb2.ReportUseRequest | None = field(default=None, init=False)
    _interval: float = field(default=INTERVAL, init=False)
    # Numbers go on counting up when an exporter that was started anew goes on with a lease.
    _sequence: int = field(default_factory=lambda: int(time.time() * 1000), init=False)

    async def run(self) -> None:
        """Report until cancelled, or until it shows that the controller takes no reports."""
        reported, in_use, at = 0, False, time.monotonic()
        while self.controller.takes_use_reports:
            if not in_use and self.uses.total == reported:
                await self.uses.rest().wait()
            changed = self.uses.total != reported or bool(self.uses.open) != in_use
            if changed or time.monotonic() - at >= self._interval:
                reported, in_use, at = self.uses.total, bool(self.uses.open), time.monotonic()
                await self._report()
            await anyio.sleep(min(self.gap, self._interval))

    async def finish(self) -> None:
        """Report what was not reported yet, if that works at once; also when cancelled."""
        if not self.controller.takes_use_reports or not self.uses.total:
            return
        with anyio.move_on_after(FINISH_TIMEOUT, shield=True):
            await self._report()

    async def _report(self) -> None:
        if self._pending is not None:
            # It may have arrived or not; the controller knows by the number.
            await self._send(self._pending)
        await self._send(self._next())

    async def _send(self, request: lab_pb2.ReportUseRequest) -> None:
        self._pending = request
        try:
            interval = await self.controller.report_use(request)
        except Refused as error:
            logger.debug("%s", error)
            interval = None
        self._pending = None
        if interval is not None and interval > 0:
            self._interval = interval

    def _next(self) -> lab_pb2.ReportUseRequest:
        uses, dropped = self.uses.take()
        self._sequence += 1
        request = lab_pb2.ReportUseRequest(
            lease_name=self.lease_name, sequence=self._sequence, in_use=bool(self.uses.open), dropped=dropped
        )
        for use in uses:
            sent = request.uses.add(
                client=use.client,
                driver=self.names.get(use.driver.lower(), ""),
                method=use.method,
                kind=use.kind,
                outcome=use.outcome,
                count=use.count,
            )
            sent.time.FromMicroseconds(int(use.time * 1e6))
        return request
