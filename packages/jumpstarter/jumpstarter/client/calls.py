"""Making driver calls over a session's stub, from the event loop and from other threads."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from jumpstarter_protocol.jumpstarter.v1.jumpstarter_pb2 import DriverCallRequest, StreamingDriverCallRequest

from jumpstarter.common.cancellation import answer
from jumpstarter.common.serde import decode_value, write_value

from .adapters import plain_errors
from .errors import DriverError, DriverInvalidArgument, DriverMethodNotImplemented, ExporterNotReady

if TYPE_CHECKING:
    from .base import DriverClient
    from .core import AsyncDriverClient

STREAM_BATCH = 256
"""Items of a streaming call that are fetched in one hop to the event loop, if they are there."""

_NO_DETAILS = "<no details>"

LOST_HINT = "Check that the exporter still runs; a shell whose exporter has ended can only be left and opened anew."


def raise_for_call(error: grpc.RpcError, method: str) -> NoReturn:
    """Raise the exception that stands for the status of a unary call."""
    code, details = error.code(), _details(error)
    message = f"DriverCall '{method}' failed with gRPC {code.name}: {details or _NO_DETAILS}"
    match code:
        case grpc.StatusCode.UNIMPLEMENTED | grpc.StatusCode.NOT_FOUND:
            raise DriverMethodNotImplemented(message) from None
        case grpc.StatusCode.FAILED_PRECONDITION:
            raise ExporterNotReady(details or message) from None
        case _:
            _raise_common(error, message)


def raise_for_stream(error: grpc.RpcError) -> NoReturn:
    """Raise the exception that stands for the status of a streaming call, or of opening a stream."""
    details = _details(error) or f"{_NO_DETAILS} ({error.code().name})"
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            raise DriverMethodNotImplemented(details) from None
        case grpc.StatusCode.FAILED_PRECONDITION:
            raise ExporterNotReady(details) from None
        case grpc.StatusCode.NOT_FOUND:
            raise DriverError(details) from error
        case _:
            _raise_common(error, details)


def _details(error: grpc.RpcError) -> str:
    """Return the text of a status; what gRPC itself says of lost connections is reduced to what users can tell."""
    details = str(error.details() or "")
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return details
    if details.startswith("failed to connect to all addresses"):
        return f"the exporter can't be reached ({details.rpartition('error: ')[2]})"
    if "Socket closed" in details or "Connection reset" in details:
        return "the connection to the exporter was lost"
    return details


def _raise_common(error: grpc.RpcError, message: str) -> NoReturn:
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            raise DriverInvalidArgument(message) from None
        case grpc.StatusCode.UNKNOWN:
            raise DriverError(message) from None
        case grpc.StatusCode.UNAVAILABLE:
            lost = DriverError(message)
            lost.hint = LOST_HINT
            raise lost from error
        case _:
            raise DriverError(message) from error


def request_for(kind: Any, client: AsyncDriverClient, method: str, args: tuple[Any, ...]) -> Any:
    """Return the request of a call; the arguments are encoded as `jumpstarter.common.serde` says."""
    request = kind(uuid=str(client.uuid), method=method)
    for argument in args:
        write_value(request.args.add(), argument)
    return request


async def call_async(client: AsyncDriverClient, method: str, args: tuple[Any, ...]) -> Any:
    """Make a unary call on the event loop."""
    request = request_for(DriverCallRequest, client, method, args)
    try:
        response = await answer(client.stub.DriverCall(request))
    except grpc.aio.AioRpcError as error:
        raise_for_call(error, method)
    return decode_value(response.result)


async def streamingcall_async(
    client: AsyncDriverClient, method: str, args: tuple[Any, ...]
) -> AsyncGenerator[Any, None]:
    """Make a streaming call on the event loop."""
    call = client.stub.StreamingDriverCall(request_for(StreamingDriverCallRequest, client, method, args))
    try:
        async for response in call:
            yield decode_value(response.result)
    except grpc.aio.AioRpcError as error:
        raise_for_stream(error)
    finally:
        call.cancel()


def call(client: DriverClient, method: str, args: tuple[Any, ...]) -> Any:
    """Make a unary call from a thread, without a detour over the event loop where that is possible."""
    direct = None if _in_event_loop() else getattr(client.stub, "blocking_driver_call", None)
    if direct is None:
        return client.portal.call(client.call_async, method, *args)
    try:
        response = direct(request_for(DriverCallRequest, client, method, args))
    except grpc.RpcError as error:
        raise_for_call(error, method)
    return decode_value(response.result)


def streamingcall(client: DriverClient, method: str, args: tuple[Any, ...]) -> Generator[Any, None, None]:
    """Make a streaming call from a thread, without a detour over the event loop where that is possible."""
    direct = None if _in_event_loop() else getattr(client.stub, "blocking_streaming_call", None)
    if direct is None:
        yield from streamingcall_by_portal(client, method, args)
        return
    call = direct(request_for(StreamingDriverCallRequest, client, method, args))
    try:
        for response in call:
            yield decode_value(response.result)
    except grpc.RpcError as error:
        raise_for_stream(error)
    finally:
        call.cancel()


def streamingcall_by_portal(client: DriverClient, method: str, args: tuple[Any, ...]) -> Generator[Any, None, None]:
    """Make a streaming call from a thread through the event loop, several items to a hop."""
    opened = client.portal.wrap_async_context_manager(_Batches(client.streamingcall_async(method, *args)))
    with plain_errors(opened) as batches:
        while batch := client.portal.call(batches.next):
            yield from batch
        if batches.failure is not None:
            raise batches.failure


def _in_event_loop() -> bool:
    """Tell whether this thread runs an event loop, which a blocking call would stop.

    The portal refuses such a call with a clear error.
    """
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True


class _Batches:
    """Reads an async generator ahead of a blocking consumer, a bounded number of items."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self._ready: list[Any] = []
        self._finished = False
        self.failure: Exception | None = None

    async def __aenter__(self) -> _Batches:
        from anyio import Event, create_task_group

        self._group = create_task_group()
        self._event = Event
        self._news, self._room = Event(), Event()
        await self._group.__aenter__()
        self._group.start_soon(self._read)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)

    async def _read(self) -> None:
        try:
            async for item in self._items:
                self._ready.append(item)
                self._news.set()
                if len(self._ready) >= STREAM_BATCH:
                    self._room = self._event()
                    await self._room.wait()
        except Exception as error:  # noqa: BLE001 (raised in the consumer's thread, after the items before it)
            self.failure = error
        finally:
            self._finished = True
            self._news.set()
            await self._items.aclose()

    async def next(self) -> list[Any]:
        """Return the items that are there, waiting for one at least; empty at the end."""
        if not self._ready and not self._finished:
            self._news = self._event()
            await self._news.wait()
        batch, self._ready = self._ready, []
        self._room.set()
        return batch
