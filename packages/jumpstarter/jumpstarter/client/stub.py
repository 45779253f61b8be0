"""The stub that driver clients call through: the rpcs of a session, over the channels that lead to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import grpc
from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2_grpc


class _SessionStub(jumpstarter_pb2_grpc.ExporterServiceStub, router_pb2_grpc.RouterServiceStub):
    """The rpcs of both services of a session over one channel."""

    def __init__(self, channel: Any) -> None:
        jumpstarter_pb2_grpc.ExporterServiceStub.__init__(self, channel)
        router_pb2_grpc.RouterServiceStub.__init__(self, channel)


class MultipathExporterStub:
    """The rpcs of a session over the first of several channels that is connected, else the last one."""

    def __init__(
        self,
        channels: Sequence[Any],
        *,
        blocking_channel: Callable[[], grpc.Channel] | None = None,
        direct_path: str | Callable[[], str | None] | None = None,
        stream_metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """
        Args:
            channels: asynchronous channels, the preferred one first.
            blocking_channel: opens a channel for calls that block the calling thread instead of
                passing through the event loop; the owner of the stub closes it by `close`.
            direct_path: the session's socket, where it offers streams beside gRPC; a function for one that may come
                to offer them.
            stream_metadata: sent with every byte stream beside what that sends.
        """
        self.channels = list(channels)
        self._stubs = [_SessionStub(channel) for channel in self.channels]
        self._ready: _SessionStub | None = self._stubs[0] if len(self._stubs) == 1 else None
        self._open_blocking = blocking_channel
        self._direct_path = direct_path
        self.stream_metadata = stream_metadata

    def add_channel(self, channel: Any) -> None:
        """Add a channel, the least preferred one."""
        self.channels.append(channel)
        self._stubs.append(_SessionStub(channel))
        self._ready = self._stubs[0] if len(self._stubs) == 1 else None

    def prefer_channel(self, channel: Any) -> None:
        """Add a channel, the most preferred one."""
        self.channels.insert(0, channel)
        self._stubs.insert(0, _SessionStub(channel))
        self._ready = self._stubs[0] if len(self._stubs) == 1 else None

    @property
    def direct_path(self) -> str | None:
        """The session's socket, while it offers streams beside gRPC."""
        path = self._direct_path
        return path() if callable(path) else path

    def _select(self) -> _SessionStub:
        if self._ready is not None:
            return self._ready
        for channel, stub in zip(self.channels, self._stubs, strict=True):
            if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                return stub
        return self._stubs[-1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not self.__dict__.get("_stubs"):
            raise AttributeError(name)
        return getattr(self._select(), name)

    @cached_property
    def _blocking(self) -> grpc.Channel | None:
        return self._open_blocking() if self._open_blocking is not None else None

    @cached_property
    def blocking_driver_call(self) -> Any:
        """The unary driver call for threads, or None where every call has to pass through the event loop."""
        if self._blocking is None:
            return None
        return self._blocking.unary_unary(
            "/jumpstarter.v1.ExporterService/DriverCall",
            request_serializer=jumpstarter_pb2.DriverCallRequest.SerializeToString,
            response_deserializer=jumpstarter_pb2.DriverCallResponse.FromString,
        )

    @cached_property
    def blocking_streaming_call(self) -> Any:
        """The streaming driver call for threads, or None as `blocking_driver_call`."""
        if self._blocking is None:
            return None
        return self._blocking.unary_stream(
            "/jumpstarter.v1.ExporterService/StreamingDriverCall",
            request_serializer=jumpstarter_pb2.StreamingDriverCallRequest.SerializeToString,
            response_deserializer=jumpstarter_pb2.StreamingDriverCallResponse.FromString,
        )

    def close(self) -> None:
        """Close the channel for blocking calls; the others belong to their opener."""
        if (channel := self.__dict__.get("_blocking")) is not None:
            channel.close()
