"""Keeps channels to routers open, so that a new stream through one costs no new TLS connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import grpc
from anyio.abc import AnyByteStream
from jumpstarter_protocol import router_pb2_grpc

from jumpstarter.streams.common import forward_stream
from jumpstarter.streams.router import RouterStream

from .exceptions import ConnectionError
from .grpc import aio_secure_channel, error_info, ssl_channel_credentials

if TYPE_CHECKING:
    from .grpc import TLSConfig

__all__ = ["RouterChannels", "UnmetError"]

STREAMS_PER_CHANNEL = 64
"""Streams that share a connection; servers and proxies may refuse more than 100 on one (RFC 9113 5.1.2)."""

CONNECT_TIMEOUT = 30.0
"""Seconds that a router may take to accept a connection."""

_OPTIONS = {
    # gRPC would wait up to two minutes before it tries again to reach a router that was away.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 5000,
}


END_KEY = "x-jmp-stream-end"
"""Trailing metadata key by which our routers say why a stream was ended that its two ends did not end."""

RIGHT_LOST = "cut"
"""Its value for a stream whose right has ended: the lease has ended, was handed over, or is no longer shared."""

_ORDINARY_ENDS = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED)
"""Statuses that a call has when one of the two ends closed it; peers of version 0.9 abort."""


class UnmetError(ConnectionError):
    """A router was lost before the other end had come to a stream, which may come when the router is back."""


def _failure(code: grpc.StatusCode, details: str, *, answered: bool) -> type[ConnectionError] | None:
    """Return the error that a status stands for, or None for one that is none.

    Args:
        code: of the call.
        details: of the call.
        answered: whether anything had come from the other end.
    """
    # What gRPC says instead of the status when it was about to send something as the call ended.
    ended_somehow = code is grpc.StatusCode.INTERNAL and details == "Internal error from Core"
    if code in _ORDINARY_ENDS or (ended_somehow and answered):
        return None
    if not answered and (ended_somehow or code is grpc.StatusCode.UNAVAILABLE):
        return UnmetError
    return ConnectionError


@dataclass(eq=False)
class _Shared:
    channel: grpc.aio.Channel
    streams: int = 0
    broken: bool = False


@dataclass
class RouterChannels:
    """The channels of one process to its routers; a context manager that closes them."""

    tls_config: TLSConfig
    grpc_options: Mapping[str, Any] | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    _channels: dict[str, list[_Shared]] = field(default_factory=dict, init=False)
    _opening: anyio.Lock = field(default_factory=anyio.Lock, init=False)

    async def __aenter__(self) -> RouterChannels:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all channels and with them the streams that are open."""
        channels, self._channels = self._channels, {}
        with anyio.CancelScope(shield=True):
            for shared in (shared for group in channels.values() for shared in group):
                await shared.channel.close()

    @asynccontextmanager
    async def connect(
        self, endpoint: str, token: str, stream: AnyByteStream, *, told: Callable[[str], None] | None = None
    ) -> AsyncGenerator[None, None]:
        """Bridge `stream` to the other holder of `token` through the router at `endpoint`.

        The body runs while both directions are forwarded; leaving it waits until both have ended.

        Args:
            endpoint: `host:port` of the router.
            token: names the stream.
            stream: what to bridge.
            told: called with the router's reason, when it gives one for ending the stream; see END_KEY.

        Raises:
            ConnectionError: the router can't be reached, or failed while it forwarded. An UnmetError when nothing had
                come from the other end before.
            ConfigurationError: the endpoint, or the certificate authority to check it with, is not well formed.
        """
        async with self._channel(endpoint) as channel:
            context = router_pb2_grpc.RouterServiceStub(channel).Stream(
                metadata=(("authorization", f"Bearer {token}"),)
            )
            try:
                bridged = RouterStream(context=context)
                async with forward_stream(bridged, stream):
                    yield
                await bridged.wait_taken()
                if told is not None and context.done():
                    for key, value in await context.trailing_metadata() or ():
                        if key == END_KEY:
                            told(str(value))
                if context.done():
                    code, details = await context.code(), await context.details() or "no details"
                    kind = _failure(code, details, answered=bridged.answered)
                    if kind is None:
                        return
                    error = kind(f"the router at {endpoint} ended a stream: {code.name}: {details}")
                    error.status, error.details = code.name, details
                    error.reason, error.metadata = error_info(await context.trailing_metadata())
                    raise error
            finally:
                context.cancel()

    @asynccontextmanager
    async def _channel(self, endpoint: str) -> AsyncGenerator[grpc.aio.Channel, None]:
        shared = await self._pick(endpoint)
        shared.streams += 1
        try:
            await self._ready(endpoint, shared)
            yield shared.channel
        finally:
            shared.streams -= 1
            if shared.broken and not shared.streams:
                with anyio.CancelScope(shield=True):
                    await shared.channel.close()

    async def _pick(self, endpoint: str) -> _Shared:
        async with self._opening:
            group = self._channels.setdefault(endpoint, [])
            for shared in group:
                if shared.streams < STREAMS_PER_CHANNEL:
                    return shared
            credentials = await ssl_channel_credentials(endpoint, self.tls_config)
            shared = _Shared(aio_secure_channel(endpoint, credentials, {**_OPTIONS, **(self.grpc_options or {})}))
            group.append(shared)
            return shared

    async def _ready(self, endpoint: str, shared: _Shared) -> None:
        try:
            with anyio.fail_after(self.connect_timeout):
                await shared.channel.channel_ready()
        except TimeoutError:
            self._discard(endpoint, shared)
            raise ConnectionError(
                f"the router at {endpoint} can't be reached: no TLS connection within {self.connect_timeout:g} s; "
                "check that it runs, and that its certificate is one that the 'tls' settings accept"
            ) from None

    def _discard(self, endpoint: str, shared: _Shared) -> None:
        """Have the next stream connect anew: the router may have another address or certificate by now."""
        shared.broken = True
        group = self._channels.get(endpoint, [])
        if shared in group:
            group.remove(shared)
