"""Client interceptors that send the passphrase a directly reached exporter asks for."""

from __future__ import annotations

from typing import Any

import grpc

from jumpstarter.common.passphrase import PASSPHRASE_METADATA_KEY


class _Passphrase:
    def __init__(self, passphrase: str) -> None:
        # Header values are ASCII on the wire; anything else is refused here instead of inside gRPC.
        if not passphrase.isascii() or not passphrase.isprintable():
            raise ValueError("a passphrase may only contain printable ASCII characters")
        self._pair = (PASSPHRASE_METADATA_KEY, passphrase)

    def _with_passphrase(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), self._pair))


class _UnaryUnary(_Passphrase, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_passphrase(details), request)


class _UnaryStream(_Passphrase, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_passphrase(details), request)


class _StreamStream(_Passphrase, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(self._with_passphrase(details), requests)


def passphrase_interceptors(passphrase: str) -> list[Any]:
    """Return the interceptors that add `passphrase` to every call.

    Raises:
        ValueError: the passphrase has characters that a header cannot carry.
    """
    return [_UnaryUnary(passphrase), _UnaryStream(passphrase), _StreamStream(passphrase)]
