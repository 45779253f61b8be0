"""The exporter's end of resources: bytes that a client offers to, or wants from, a driver call."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from jumpstarter.common.resources import ClientStreamResource, Resource
from jumpstarter.streams.common import MemoryStream, create_memory_stream
from jumpstarter.streams.encoding import Compression, compress_stream
from jumpstarter.streams.metadata import MetadataStream

if TYPE_CHECKING:
    from anyio.abc import ObjectStream
    from pydantic import TypeAdapter

_adapter: TypeAdapter[Any] | None = None


def parse_handle(handle: Any) -> Any:
    """Return the resource that a handle describes.

    Raises:
        pydantic.ValidationError: the handle has no known form.
    """
    global _adapter
    if _adapter is None:
        from pydantic import TypeAdapter

        _adapter = TypeAdapter(Resource)
    return _adapter.validate_python(handle)


class _OfferedStream(MetadataStream):
    """The client's end of a resource."""

    stream: MemoryStream

    def abort(self) -> None:
        """Let the driver know that the client went away before it had sent everything."""
        self.stream.break_off()


@asynccontextmanager
async def offered_stream(
    resources: dict[UUID, Any], encoding: str | None = None
) -> AsyncGenerator[ObjectStream[bytes], None]:
    """Yield the client's end of a new resource, whose other end waits in `resources` for a driver call.

    What no call has taken when the client's stream ends is removed.

    Args:
        resources: the driver's open resources by UUID.
        encoding: compression of the client's bytes; the handle repeats it where this exporter undoes it.
    """
    uuid = uuid4()
    mine, theirs = create_memory_stream()
    resources[uuid] = theirs
    handle = ClientStreamResource(uuid=uuid)
    metadata = {}
    if os.environ.get("JMP_DISABLE_COMPRESSION") != "1":
        handle.x_jmp_content_encoding = encoding
        # The presence of this key says that the exporter decodes; a client without an answer sends plain bytes.
        metadata["x_jmp_accept_encoding"] = "gzip,xz,bz2,zstd"
    metadata["resource"] = handle.model_dump_json()
    try:
        async with mine:
            yield _OfferedStream(mine, metadata)
    finally:
        if (unused := resources.pop(uuid, None)) is not None:
            await unused.aclose()


@asynccontextmanager
async def open_resource(
    resources: dict[UUID, Any], handle: Any, timeout: float
) -> AsyncGenerator[ObjectStream[bytes], None]:
    """Open the bytes behind `handle`; see `Driver.resource`."""
    resource = parse_handle(handle)
    opened: AbstractAsyncContextManager[Any]
    if isinstance(resource, ClientStreamResource):
        opened = _client_stream(resources, resource)
    else:
        from jumpstarter.common.presigned import presigned_stream

        opened = presigned_stream(resource, timeout)
    async with opened as stream:
        yield stream


@asynccontextmanager
async def _client_stream(
    resources: dict[UUID, Any], resource: ClientStreamResource
) -> AsyncGenerator[ObjectStream[bytes], None]:
    encoding = resource.x_jmp_content_encoding
    compression = _compression(encoding) if encoding else None
    try:
        stream = resources.pop(resource.uuid)
    except KeyError:
        raise KeyError(f"resource {resource.uuid} is not open on this driver, or was used before") from None
    async with stream:
        if compression is None:
            yield stream
            return
        async with compress_stream(stream, compression) as decoded:
            yield decoded


def _compression(encoding: str) -> Compression:
    try:
        return Compression(encoding)
    except ValueError:
        known = ", ".join(Compression)
        raise ValueError(f"unknown content encoding {encoding!r}: this exporter knows {known}") from None
