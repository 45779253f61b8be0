"""What opens a byte stream at a session, as JSON in the call's metadata, and how to reach one through a router."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, Json

if TYPE_CHECKING:
    from anyio.abc import ObjectStream

    from jumpstarter.common.tls import TLSConfigV1Alpha1


class ResourceStreamRequest(BaseModel):
    """Asks for a stream whose bytes a driver call will use as a resource."""

    kind: Literal["resource"] = "resource"
    uuid: UUID
    x_jmp_content_encoding: str | None = None


class DriverStreamRequest(BaseModel):
    """Asks for the stream that a driver's method opens."""

    kind: Literal["driver"] = "driver"
    uuid: UUID
    method: str


StreamRequest = Annotated[ResourceStreamRequest | DriverStreamRequest, Field(discriminator="kind")]


class StreamRequestMetadata(BaseModel):
    """Metadata of a stream call at a session."""

    request: Json[StreamRequest]


@asynccontextmanager
async def connect_router_stream(
    endpoint: str,
    token: str,
    stream: ObjectStream[bytes],
    tls_config: TLSConfigV1Alpha1,
    grpc_options: dict[str, Any] | None,
) -> AsyncGenerator[None, None]:
    """Bridge `stream` to the other holder of `token` through the router at `endpoint`.

    The body runs while both directions are forwarded; leaving it waits until both have ended.
    """
    import grpc
    from jumpstarter_protocol import router_pb2_grpc

    from jumpstarter.common.grpc import aio_secure_channel, composite_channel_credentials, ssl_channel_credentials
    from jumpstarter.streams.common import forward_stream
    from jumpstarter.streams.router import RouterStream

    credentials = composite_channel_credentials(
        await ssl_channel_credentials(endpoint, tls_config),
        grpc.access_token_call_credentials(token),
    )
    async with aio_secure_channel(endpoint, credentials, grpc_options) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        context = router.Stream(metadata=())
        try:
            async with forward_stream(RouterStream(context=context), stream):
                yield
        finally:
            context.cancel()
