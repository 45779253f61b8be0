"""Driver clients for ordinary, blocking code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .core import AsyncDriverClient

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from jumpstarter.streams.blocking import BlockingStream
else:
    # Importing anyio takes longer than most commands; pydantic dataclasses need a name that exists.
    BlockingPortal = Any


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
        if type(self).call_async is not AsyncDriverClient.call_async:
            return self.portal.call(self.call_async, method, *args)
        from .calls import call

        return call(self, method, args)

    def streamingcall(self, method: str, *args: Any) -> Generator[Any, None, None]:
        """Call an exported generator and yield its items.

        Raises:
            DriverError: or one of its subclasses, after the items before it.
        """
        from .calls import streamingcall, streamingcall_by_portal

        if type(self).streamingcall_async is not AsyncDriverClient.streamingcall_async:
            return streamingcall_by_portal(self, method, args)
        return streamingcall(self, method, args)

    @contextmanager
    def stream(self, method: str = "connect") -> Generator[BlockingStream, None, None]:
        """Open the byte stream of an exported method."""
        from jumpstarter.streams.blocking import BlockingStream

        from .adapters import plain_errors

        with plain_errors(self.portal.wrap_async_context_manager(self.stream_async(method))) as stream:
            yield BlockingStream(stream=stream, portal=self.portal)

    def open_stream(self) -> BlockingStream:
        """Open the byte stream of `connect`, to be closed with this client."""
        return self.stack.enter_context(self.stream())

    def log_stream(self) -> AbstractContextManager[None]:
        """Log what the exporter logs while the body runs."""
        from .adapters import plain_errors

        return plain_errors(self.portal.wrap_async_context_manager(self.log_stream_async()))

    def close(self) -> None:
        """Close everything that was opened with this client."""
        self.stack.close()


@dataclass(kw_only=True)
class StubDriverClient(DriverClient):
    """Stands for a driver whose client class is not installed or not allowed; using it says so."""

    reason: str | None = None
    """Why its own class is not used, and what to do about it."""

    def _refuse(self) -> NoReturn:
        from jumpstarter.common.importlib import missing_driver_message

        raise ImportError(self.reason or missing_driver_message(self.labels.get("jumpstarter.dev/client", "unknown")))

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
    def log_stream(self) -> Generator[None, None, None]:
        """Raise ImportError on entering, with what to install."""
        self._refuse()
        yield

    def __getattr__(self, name: str) -> Any:
        # Dunder and private names are looked up by copy, pickle and dataclasses, which expect an AttributeError.
        if name.startswith("_") or "labels" not in self.__dict__:
            raise AttributeError(name)
        self._refuse()
