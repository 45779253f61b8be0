"""Opening a byte stream at a session: by a gRPC call, or directly where client and exporter share a machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from anyio import BrokenResourceError, move_on_after

from jumpstarter.client import local_paths
from jumpstarter.streams.direct import Refused, open_direct
from jumpstarter.streams.metadata import MetadataStream
from jumpstarter.streams.router import CLOSE_KEY, RouterStream

LINGER = 1.0
"""Seconds after which a call is cancelled that an exporter leaves open although both directions have ended."""


@asynccontextmanager
async def open_by_call(stub: Any, request: dict[str, Any]) -> AsyncGenerator[MetadataStream, None]:
    """Open a stream through `RouterService.Stream`.

    Raises:
        grpc.aio.AioRpcError: the session did not open it.
    """
    context = stub.Stream(metadata=(("request", _text(request)), *getattr(stub, "stream_metadata", ())))
    linger = False
    try:
        metadata = {key: value for key, value in await context.initial_metadata()}  # noqa: C416
        graceful = metadata.pop(CLOSE_KEY, None) is not None
        if not (graceful or metadata):
            await _check_opened(context)
        async with RouterStream(context=context, graceful=graceful) as stream:
            yield MetadataStream(stream=stream, metadata=metadata)
        linger = not graceful
    finally:
        if linger:
            # Other exporters never end a call; what was sent last must still reach them.
            asyncio.get_running_loop().call_later(LINGER, context.cancel)
        else:
            context.cancel()


@asynccontextmanager
async def open_directly(path: str, request: dict[str, Any]) -> AsyncGenerator[MetadataStream, None]:
    """Open a stream at the Unix socket beside that of the session at `path`.

    Raises:
        grpc.aio.AioRpcError: the session did not open it, or is gone.
    """
    try:
        wanted = {"request": _text(request)}
        local = local_paths.find(path)
        opened = await local.open_stream(wanted) if local is not None else None
        metadata, stream = opened or await open_direct(path, wanted)
    except Refused as refused:
        code = getattr(grpc.StatusCode, refused.code, grpc.StatusCode.UNKNOWN)
        raise _error(code, refused.details) from None
    except (OSError, BrokenResourceError) as error:
        raise _error(grpc.StatusCode.UNAVAILABLE, f"the exporter at {path} is gone: {error}") from error
    async with stream:
        yield MetadataStream(stream=stream, metadata=metadata)


def _text(request: dict[str, Any]) -> str:
    return json.dumps(request, separators=(",", ":"))


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def _check_opened(context: Any) -> None:
    """Raise the error of a call that ended instead of opening a stream.

    Sessions other than ours send no metadata for most streams, and a failed call has none either; the
    status of a failed one is there at once or in the next rounds of the event loop.
    """

    with move_on_after(0.02):
        code = await context.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code, await context.initial_metadata(), await context.trailing_metadata(), await context.details()
            )
