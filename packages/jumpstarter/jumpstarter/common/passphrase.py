"""The passphrase of directly reached exporters: its metadata key and the interceptors that clients send it with."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

__all__ = ["PASSPHRASE_METADATA_KEY", "check_passphrase", "passphrase_client_interceptors"]

PASSPHRASE_METADATA_KEY = "x-jumpstarter-passphrase"
"""Metadata key of every call to an exporter that asks for a passphrase (core protocol of 0.9)."""


def check_passphrase(passphrase: str) -> str:
    """Return `passphrase` if a header can carry it.

    Raises:
        ValueError: it is empty, or has other characters than printable ASCII ones, or blanks at an end.
    """
    if not passphrase:
        raise ValueError("a passphrase must not be empty")
    # Header values are ASCII on the wire and lose blanks at their ends; refused here instead of inside gRPC.
    if not passphrase.isascii() or not passphrase.isprintable() or passphrase != passphrase.strip():
        raise ValueError("a passphrase may only contain printable ASCII characters, and no blanks at its ends")
    return passphrase


@cache
def _interceptor_classes() -> tuple[Any, ...]:
    # Made when first used: clients of Unix sockets need neither them nor gRPC's interceptors.
    import grpc

    class Sender:
        def __init__(self, passphrase: str) -> None:
            self._pair = (PASSPHRASE_METADATA_KEY, passphrase)

        def add(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
            return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), self._pair))

    class UnaryUnary(Sender, grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(self.add(details), request)

    class UnaryStream(Sender, grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(self.add(details), request)

    class StreamStream(Sender, grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return await continuation(self.add(details), requests)

    return UnaryUnary, UnaryStream, StreamStream


def passphrase_client_interceptors(passphrase: str, *, streams: bool = True) -> list[Any]:
    """Return the interceptors that add `passphrase` to every call of a `grpc.aio` channel.

    Args:
        passphrase: what the exporter asks for.
        streams: for calls that stream in both directions as well. gRPC leaves a task behind for each of those that
            the server ends first, and takes two more for each message, so our own clients give them the metadata
            themselves.

    Raises:
        ValueError: the passphrase is one that a header cannot carry.
    """
    check_passphrase(passphrase)
    kinds = _interceptor_classes()
    return [kind(passphrase) for kind in (kinds if streams else kinds[:2])]
