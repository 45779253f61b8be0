"""The client's end of resources: offering a stream of bytes to a driver call."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from anyio import EndOfStream, Event, move_on_after
from anyio.abc import ObjectStream

from jumpstarter.streams.common import forward_stream
from jumpstarter.streams.progress import ProgressStream

if TYPE_CHECKING:
    from jumpstarter.streams.direct import DirectStream
    from jumpstarter.streams.router import RouterStream

    from .core import AsyncDriverClient


@asynccontextmanager
async def offer(
    client: AsyncDriverClient, stream: ObjectStream[bytes], content_encoding: str | None
) -> AsyncGenerator[Any, None]:
    """Yield a handle to `stream`; see `AsyncDriverClient.resource_async`."""
    request: dict[str, Any] = {"kind": "resource", "uuid": str(client.uuid)}
    if content_encoding is not None:
        request["x_jmp_content_encoding"] = content_encoding
    async with client._open(request) as remote:
        handle = json.loads(remote.metadata["resource"])
        if content_encoding is not None:
            if "x_jmp_accept_encoding" in remote.metadata:
                handle["x_jmp_content_encoding"] = content_encoding
            else:
                from jumpstarter.streams.encoding import Compression, compress_stream

                stream = compress_stream(stream, Compression(content_encoding))
                handle.pop("x_jmp_content_encoding", None)
        # A cancelled call, unlike one that ends, tells the exporter that it has not got, or given, everything.
        cancel = cast("RouterStream | DirectStream", remote.stream).abort
        local = _Strict(ProgressStream(stream=stream), cancel)
        async with forward_stream(local, remote):
            try:
                yield handle
                # A driver that opened the resource has closed it by now, and its bytes, or EOF, are on their way.
                with move_on_after(UNUSED_TIMEOUT):
                    await local.answered.wait()
                if not local.answered.is_set():
                    cancel()
            except BaseException:
                cancel()
                raise


UNUSED_TIMEOUT = 1.0
"""Seconds after a call in which nothing comes from a resource before it counts as one that the driver never opened."""


class _Strict(ObjectStream[bytes]):
    """A client's stream whose failure breaks the transfer off, as the exporter would wait for the rest of it."""

    def __init__(self, stream: ObjectStream[bytes], cancel: Callable[[], object]) -> None:
        self._stream = stream
        self._cancel = cancel
        self.answered = Event()
        """Set when the exporter sends the first bytes, or EOF."""

    async def send_eof(self) -> None:
        """End the sending direction of the stream."""
        self.answered.set()
        try:
            await self._stream.send_eof()
        except Exception:
            self._cancel()
            raise

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    async def receive(self) -> bytes:
        """Receive from the stream."""
        try:
            return await self._stream.receive()
        except EndOfStream:
            raise
        except Exception:
            self._cancel()
            raise

    async def send(self, item: bytes) -> None:
        """Send to the stream."""
        self.answered.set()
        try:
            await self._stream.send(item)
        except Exception:
            self._cancel()
            raise
