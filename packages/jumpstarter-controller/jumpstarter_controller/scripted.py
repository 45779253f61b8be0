"""Peers that do what a test says, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from jumpstarter_protocol import client_pb2, jumpstarter_pb2

from .model.records import Exporter, ExporterStatus, Key, Kind
from .services.convert import ROLES_LABEL, STATUSES
from .services.errors import DETAILS_KEY
from .testing import NAMESPACE, Login, RunningLab, Stubs

PATIENCE = 15.0
"""Seconds for which tests wait for a message."""

QUIET = 0.3
"""Seconds of silence that count as nothing being sent."""


PARENT = f"namespaces/{NAMESPACE}"


def lease_key(name: str) -> Key:
    """Return the key of a lease by its plain or full name."""
    return Key(Kind.LEASE, NAMESPACE, name.rpartition("/")[2])


async def lease_of(
    client: Stubs, name: str = "", exporter: str = "board", selector: str = "", seconds: int = 600, **fields: Any
) -> str:
    """Request a lease and return its plain name."""
    lease = client_pb2.Lease(selector=selector, exporter_name="" if selector else exporter, **fields)
    lease.duration.FromTimedelta(timedelta(seconds=seconds))
    answer = await client.client.CreateLease(client_pb2.CreateLeaseRequest(parent=PARENT, lease_id=name, lease=lease))
    return str(answer.name.rpartition("/")[2])


async def delete(client: Stubs, name: str) -> None:
    """End a lease, given by its plain name."""
    await client.client.DeleteLease(client_pb2.DeleteLeaseRequest(name=f"{PARENT}/leases/{name}"))


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    """Return status and details of a call that has to be refused.

    Raises:
        AssertionError: it was answered.
    """
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError(f"the call was answered: {answer}")


async def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something is so that nobody tells of.

    Raises:
        TimeoutError: it is not in time.
    """
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (there is no event)
            await anyio.sleep(0.01)


def reason(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in the details of an error."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            assert isinstance(value, bytes)
            info = ErrorInfo()
            assert Status.FromString(value).details[0].Unpack(info)
            return info.reason
    raise AssertionError("the error has no details")


class Messages:
    """The answers of a call, one by one, each waited for with a bound."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._reading: asyncio.Task[Any] | None = None

    async def _next(self, seconds: float) -> Any:
        # A read that is cancelled would end the call, so one that is begun is kept for the next message.
        self._reading = self._reading or asyncio.ensure_future(self._call.read())
        await asyncio.wait([self._reading], timeout=seconds)
        if not self._reading.done():
            raise TimeoutError(f"no message within {seconds:g} s")
        reading, self._reading = self._reading, None
        return reading.result()

    async def next(self, seconds: float = PATIENCE) -> Any:
        """Return the next message.

        Raises:
            EOFError: the call ended with OK.
            grpc.aio.AioRpcError: it ended otherwise.
            TimeoutError: there is none in time.
        """
        message = await self._next(seconds)
        if message is grpc.aio.EOF:
            raise EOFError("the call has ended")
        return message

    async def silent(self, seconds: float = QUIET) -> bool:
        """Tell whether no message comes, and the call does not end."""
        try:
            await self._next(seconds)
        except TimeoutError:
            return True
        return False

    def cancel(self) -> None:
        """End the call, as a peer does that reads no more."""
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()


class ScriptedExporter:
    """The calls of an exporter."""

    def __init__(self, lab: RunningLab, login: Login, stubs: Stubs) -> None:
        self.login = login
        self.stubs = stubs
        self._lab = lab
        self._open: list[Messages] = []

    @property
    def name(self) -> str:
        return self.login.key.name

    @property
    def record(self) -> Exporter:
        """What the lab knows of it."""
        record = self._lab.lab.account(self.login.key)
        assert isinstance(record, Exporter)
        return record

    async def register(self, labels: Mapping[str, str] | None = None, devices: int = 1) -> str:
        """Register with some devices and return the uuid."""
        reports = [jumpstarter_pb2.DriverInstanceReport(uuid=f"{self.name}-{number}") for number in range(devices)]
        request = jumpstarter_pb2.RegisterRequest(labels=dict(labels or {}), reports=reports)
        response = await self.stubs.controller.Register(request)
        return str(response.uuid)

    async def report(self, status: ExporterStatus | int, message: str = "", *, release: bool = False) -> None:
        """Report a status."""
        number: Any = status if isinstance(status, int) else STATUSES[status]
        request = jumpstarter_pb2.ReportStatusRequest(message=message, release_lease=release)
        request.status = number
        await self.stubs.controller.ReportStatus(request)

    def status(self) -> Messages:
        """Open a `Status` stream."""
        return self._opened(self.stubs.controller.Status(jumpstarter_pb2.StatusRequest()))

    def listen(self, lease: str) -> Messages:
        """Open a `Listen` stream."""
        return self._opened(self.stubs.controller.Listen(jumpstarter_pb2.ListenRequest(lease_name=lease)))

    def _opened(self, call: Any) -> Messages:
        messages = Messages(call)
        self._open.append(messages)
        return messages

    def close(self) -> None:
        """End all streams."""
        for messages in self._open:
            messages.cancel()


@asynccontextmanager
async def scripted_exporter(
    lab: RunningLab, name: str = "board", *, labels: Mapping[str, str] | None = None, roles: bool = False
) -> AsyncGenerator[tuple[ScriptedExporter, Messages], None]:
    """Yield a registered, connected exporter that reported AVAILABLE, and its `Status` stream after the first message.

    Args:
        labels: of its account.
        roles: whether it says that it keeps watchers from driving.
    """
    login = await lab.exporter(name, labels=labels)
    async with login.stubs() as stubs:
        exporter = ScriptedExporter(lab, login, stubs)
        try:
            await exporter.register({ROLES_LABEL: "1"} if roles else {})
            await exporter.report(ExporterStatus.AVAILABLE)
            status = exporter.status()
            await status.next()
            await lab.until(login.key, lambda record: record.online)
            yield exporter, status
        finally:
            exporter.close()
