"""Driver clients for ordinary, blocking code."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import grpc
from anyio.from_thread import BlockingPortal
from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2

from jumpstarter.common.serde import decode_value

from .adapters import plain_errors
from .core import AsyncDriverClient, raise_for_call, raise_for_stream

if TYPE_CHECKING:
    from jumpstarter.streams.blocking import BlockingStream

STREAM_BATCH = 256
"""Items of a streaming call that are fetched in one hop to the event loop, if they are there."""


@dataclass(kw_only=True)
class DriverClient(AsyncDriverClient):
    """Mirrors one driver of an exporter; its blocking methods may be used from any thread but the event loop's.

    Subclasses may be decorated as `dataclasses.dataclass(kw_only=True)`, as a pydantic dataclass, or
    not at all. A subclass that defines `cli()` adds the click command or group it returns to `j`.
    """

    # Read by pydantic when a subclass is a pydantic dataclass.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}

    children: dict[str, DriverClient] = field(default_factory=dict)
    portal: BlockingPortal
    stack: ExitStack
    description: str | None = None
    methods_description: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, *args: Any) -> Any:
        """Call an exported function and return its result; numbers come back as `float`.

        Raises:
            DriverError: or one of its subclasses, with what the driver said.
        """
        direct = self._direct_call()
        if direct is None:
            return self.portal.call(self.call_async, method, *args)
        request = self._request(jumpstarter_pb2.DriverCallRequest, method, args)
        try:
            response = direct(request)
        except grpc.RpcError as error:
            raise_for_call(error, method)
        return decode_value(response.result)

    def _direct_call(self) -> Any:
        """Return what makes a call without a detour over the event loop, where that is possible."""
        if type(self).call_async is not AsyncDriverClient.call_async or _in_event_loop():
            return None
        return getattr(self.stub, "blocking_driver_call", None)

    def streamingcall(self, method: str, *args: Any) -> Generator[Any, None, None]:
        """Call an exported generator and yield its items.

        Raises:
            DriverError: or one of its subclasses, after the items before it.
        """
        direct = None
        if type(self).streamingcall_async is AsyncDriverClient.streamingcall_async and not _in_event_loop():
            direct = getattr(self.stub, "blocking_streaming_call", None)
        if direct is None:
            yield from self._streamingcall_by_portal(method, args)
            return
        call = direct(self._request(jumpstarter_pb2.StreamingDriverCallRequest, method, args))
        try:
            for response in call:
                yield decode_value(response.result)
        except grpc.RpcError as error:
            raise_for_stream(error)
        finally:
            call.cancel()

    def _streamingcall_by_portal(self, method: str, args: tuple[Any, ...]) -> Generator[Any, None, None]:
        with plain_errors(
            self.portal.wrap_async_context_manager(_Batches(self.streamingcall_async(method, *args)))
        ) as batches:
            while batch := self.portal.call(batches.next):
                yield from batch
            if batches.failure is not None:
                raise batches.failure

    @contextmanager
    def stream(self, method: str = "connect") -> Generator[BlockingStream, None, None]:
        """Open the byte stream of an exported method."""
        from jumpstarter.streams.blocking import BlockingStream

        with plain_errors(self.portal.wrap_async_context_manager(self.stream_async(method))) as stream:
            yield BlockingStream(stream=stream, portal=self.portal)

    def open_stream(self) -> BlockingStream:
        """Open the byte stream of `connect`, to be closed with this client."""
        return self.stack.enter_context(self.stream())

    def log_stream(self) -> AbstractContextManager[None]:
        """Log what the exporter logs while the body runs."""
        return plain_errors(self.portal.wrap_async_context_manager(self.log_stream_async()))

    def close(self) -> None:
        """Close everything that was opened with this client."""
        self.stack.close()


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


@dataclass(kw_only=True)
class StubDriverClient(DriverClient):
    """Stands for a driver whose client class is not installed or not allowed; using it says so."""

    def _refuse(self) -> NoReturn:
        from jumpstarter.common.importlib import missing_driver_message

        raise ImportError(missing_driver_message(self.labels.get("jumpstarter.dev/client", "unknown")))

    def call(self, method: str, *args: Any) -> Any:
        """Raise ImportError, with what to install."""
        self._refuse()

    def streamingcall(self, method: str, *args: Any) -> Generator[Any, None, None]:
        """Raise ImportError at the first item, with what to install."""
        self._refuse()
        yield

    @contextmanager
    def stream(self, method: str = "connect") -> Generator[Any, None, None]:
        """Raise ImportError on entering, with what to install."""
        self._refuse()
        yield

    @contextmanager
    def log_stream(self) -> Generator[None, None, None]:  # type: ignore[override]
        """Raise ImportError on entering, with what to install."""
        self._refuse()
        yield

    def __getattr__(self, name: str) -> Any:
        # Dunder and private names are looked up by copy, pickle and dataclasses, which expect an AttributeError.
        if name.startswith("_") or "labels" not in self.__dict__:
            raise AttributeError(name)
        self._refuse()
