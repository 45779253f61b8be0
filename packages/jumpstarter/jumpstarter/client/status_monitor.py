"""Follows the status of an exporter, so that clients can wait for the hooks around their lease."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from anyio import CancelScope, Event, create_task_group, move_on_after, sleep
from anyio.abc import TaskGroup
from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2

from jumpstarter.common.cancellation import answer
from jumpstarter.common.enums import ExporterStatus

logger = logging.getLogger(__name__)

WAITING_INTERVAL = 0.1
"""Seconds between two questions while somebody waits for a change."""

IDLE_INTERVAL = 5.0
"""Seconds between two questions while the lease is in use and nobody waits."""

RPC_TIMEOUT = 5.0
"""Seconds that the exporter has to answer."""

LOST_AFTER = 20
"""Questions in a row without an answer in time after which the connection counts as lost."""

StatusCallback = Callable[[ExporterStatus, ExporterStatus | None], Awaitable[None]]


class StatusMonitor:
    """Asks an exporter for its status again and again, while it is an async context or between start and stop.

    An exporter that has no notion of a status counts as ready.
    """

    def __init__(self, stub: Any, poll_interval: float = 0.3, get_status_unsupported: bool = False) -> None:
        """
        Args:
            stub: the rpcs of the session.
            poll_interval: seconds between two questions.
            get_status_unsupported: it is known that the exporter can't be asked.
        """
        self._stub = stub
        self._poll_interval = poll_interval
        self._get_status_unsupported = get_status_unsupported
        self._status: ExporterStatus | None = ExporterStatus.LEASE_READY if get_status_unsupported else None
        self._previous: ExporterStatus | None = None
        self._message = ""
        self._version = 0
        self._missed = 0
        self._connection_lost = False
        self._callbacks: list[StatusCallback] = []
        self._waiters = 0
        self._changed = Event()
        self._hurry = Event()
        self._group: TaskGroup | None = None
        self._own_group = False
        self._scope: CancelScope | None = None

    @property
    def current_status(self) -> ExporterStatus | None:
        """The status seen last; None before the first answer."""
        return self._status

    @property
    def previous_status(self) -> ExporterStatus | None:
        """The status before that, as the exporter tells."""
        return self._previous

    @property
    def status_message(self) -> str:
        """What the exporter says about its status."""
        return self._message

    @property
    def status_version(self) -> int:
        """How often the status has changed."""
        return self._version

    @property
    def missed_transitions(self) -> int:
        """Changes that came and went between two questions."""
        return self._missed

    @property
    def connection_lost(self) -> bool:
        """Whether the exporter does not answer any more."""
        return self._connection_lost

    def on_status_change(self, callback: StatusCallback) -> None:
        """Call `callback` with the new and the old status at each change."""
        self._callbacks.append(callback)

    # -- waiting ---------------------------------------------------------------------------------

    async def wait_for_status(self, target: ExporterStatus, timeout: float | None = None) -> bool:
        """Wait for a status; False when it was not seen within `timeout` seconds or the connection was lost."""
        return await self.wait_for_any_of([target], timeout) is not None

    async def wait_for_any_of(
        self, targets: Sequence[ExporterStatus], timeout: float | None = None
    ) -> ExporterStatus | None:
        """Wait for one of several statuses and return it.

        Returns None when none was seen within `timeout` seconds (None: no limit), or the connection was lost.
        """
        self._waiters += 1
        self._hurry.set()
        try:
            with move_on_after(timeout):
                while True:
                    if self._status in targets:
                        return self._status
                    if self._connection_lost:
                        return None
                    await self._changed.wait()
        finally:
            self._waiters -= 1
        return None

    # -- running ---------------------------------------------------------------------------------

    async def start(self, tg: TaskGroup | None = None) -> None:
        """Begin to ask, in `tg` or in a task group of its own, which `stop` must then end in the same task."""
        if self._scope is not None or self._get_status_unsupported:
            return
        self._scope = CancelScope()
        if tg is None:
            tg = create_task_group()
            self._own_group = True
            await tg.__aenter__()
        self._group = tg
        tg.start_soon(self._run)

    async def stop(self) -> None:
        """End asking."""
        if self._scope is None:
            return
        self._scope.cancel()
        group, own = self._group, self._own_group
        self._scope, self._group, self._own_group = None, None, False
        if own and group is not None:
            await group.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        scope = self._scope
        if scope is None:
            return
        with scope:
            timeouts = 0
            while True:
                try:
                    response = await answer(
                        self._stub.GetStatus(jumpstarter_pb2.GetStatusRequest(), timeout=RPC_TIMEOUT)
                    )
                    timeouts = 0
                    await self._take(response)
                except grpc.aio.AioRpcError as error:
                    timeouts = timeouts + 1 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 0
                    if not await self._survives(error, timeouts):
                        return
                await self._pause()

    async def _survives(self, error: grpc.aio.AioRpcError, timeouts: int) -> bool:
        """Tell whether asking again may help."""
        match error.code():
            case grpc.StatusCode.UNIMPLEMENTED:
                self._get_status_unsupported = True
                await self._set(ExporterStatus.LEASE_READY)
                return False
            case grpc.StatusCode.UNAVAILABLE:
                return True
            case grpc.StatusCode.DEADLINE_EXCEEDED if timeouts < LOST_AFTER:
                return True
        logger.debug("the exporter's status is not to be had any more: %s", error.details())
        self._connection_lost = True
        self._wake()
        return False

    async def _pause(self) -> None:
        if self._waiters:
            await sleep(min(WAITING_INTERVAL, self._poll_interval))
            return
        idle = self._status is ExporterStatus.LEASE_READY
        self._hurry = Event()
        with move_on_after(IDLE_INTERVAL if idle else self._poll_interval):
            await self._hurry.wait()

    async def _take(self, response: jumpstarter_pb2.GetStatusResponse) -> None:
        if self._status is not None and response.status_version > self._version + 1:
            self._missed += response.status_version - self._version - 1
        self._version = response.status_version
        self._message = response.message
        if response.HasField("previous_status"):
            self._previous = ExporterStatus.from_proto(response.previous_status)
        await self._set(ExporterStatus.from_proto(response.status))

    async def _set(self, status: ExporterStatus) -> None:
        if status == self._status:
            return
        old, self._status = self._status, status
        self._wake()
        for callback in list(self._callbacks):
            try:
                await callback(status, old)
            except Exception as error:  # noqa: BLE001 (a callback of any kind must not end the watch)
                logger.warning("a callback failed on status %s: %s", status, error)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = Event()
