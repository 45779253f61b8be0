"""The Unix sockets by which this process itself offers the way to exporters, for its own clients to know about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import AnyByteStream

__all__ = ["LocalPath", "find", "paths", "patience"]


class LocalPath(Protocol):
    """What this process offers at one of its sockets."""

    def offered(self, response: Any, stub: Any) -> None:
        """Take note of what an exporter says of ways to it that need no router.

        Args:
            response: the exporter's answer to GetReport.
            stub: the stub of a client, which may use a better way when there is one.
        """
        ...

    async def open_stream(self, request: dict[str, Any]) -> tuple[dict[str, str], AnyByteStream] | None:
        """Open a byte stream without a detour over the socket, or return None when that isn't possible.

        Raises:
            jumpstarter.streams.direct.Refused: the session did not open it.
        """
        ...


paths: dict[str, LocalPath] = {}
"""By the path of the socket."""


patience: dict[str, Callable[[], Awaitable[bool]]] = {}
"""By the path of a socket: what tells whether it makes sense to wait for an exporter that doesn't answer there."""


def find(path: str) -> LocalPath | None:
    """Return what this process offers at `path`, if anything."""
    return paths.get(path)
