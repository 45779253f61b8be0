"""A client that connects when it is first used, for commands that mostly just show what there is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from jumpstarter.common.report_file import read_report

from .tree import DriverReport, build_tree

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from .base import DriverClient
    from .stub import MultipathExporterStub


@contextmanager
def lazy_client(path: str, allow: list[str], unsafe: bool) -> Generator[DriverClient | None, None, None]:
    """Yield the root client of the session at a Unix socket, or None when the session left no report there.

    Args:
        path: the session's socket.
        allow: patterns of dotted paths of the client classes that may be imported.
        unsafe: import any client class.

    Raises:
        ConfigurationError: the report makes no tree.
    """
    members = read_report(path)
    if members is None:
        yield None
        return
    reports = [
        DriverReport(**{name: value for name, value in report.items() if value is not None or name == "parent_uuid"})
        for report in members
    ]
    with ExitStack() as stack:
        portal = stack.enter_context(_LazyPortal())
        stub = stack.enter_context(_LazyStub(path, portal))
        client = build_tree(reports, stub=stub, portal=portal, stack=stack, allow=allow, unsafe=unsafe)
        try:
            yield client
        finally:
            client.close()


class _LazyPortal:
    """A blocking portal whose event loop starts with the first use."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = Lock()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> _LazyPortal:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def started(self) -> bool:
        """Whether there is an event loop."""
        return self._portal is not None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with self._lock:
            if self._portal is None:
                from anyio.from_thread import start_blocking_portal

                self._portal = self._stack.enter_context(start_blocking_portal())
        return getattr(self._portal, name)


class _LazyStub:
    """A session's stub whose channels open with the first call."""

    def __init__(self, path: str, portal: _LazyPortal) -> None:
        self._path = path
        self._portal = portal

    def __enter__(self) -> _LazyStub:
        return self

    def __exit__(self, *error: Any) -> None:
        stub = self.__dict__.get("_stub")
        if stub is None:
            return
        stub.close()
        for channel in stub.channels:
            self._portal.call(channel.close)

    @cached_property
    def _stub(self) -> MultipathExporterStub:
        from functools import partial

        from .client import open_blocking
        from .stub import MultipathExporterStub

        return MultipathExporterStub([], blocking_channel=partial(open_blocking, self._path))

    @cached_property
    def direct_path(self) -> str | None:
        """The session's socket, where it offers streams beside gRPC."""
        from jumpstarter.streams.direct import available

        return self._path if available(self._path) else None

    @property
    def blocking_driver_call(self) -> Any:
        """The unary driver call for threads."""
        return self._stub.blocking_driver_call

    @property
    def blocking_streaming_call(self) -> Any:
        """The streaming driver call for threads."""
        return self._stub.blocking_streaming_call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        stub = self._stub
        if not stub.channels:
            # Asked for by a coroutine, so on the event loop that the channel is to belong to.
            from .client import open_channel

            stub.add_channel(open_channel(self._path))
        return getattr(stub, name)
