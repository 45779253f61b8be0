"""Keeps callers without the passphrase away from an exporter that is reached directly."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from jumpstarter.common.passphrase import PASSPHRASE_METADATA_KEY, check_passphrase, passphrase_client_interceptors

__all__ = ["PASSPHRASE_METADATA_KEY", "PassphraseInterceptor", "passphrase_client_interceptors"]


class PassphraseInterceptor(grpc.aio.ServerInterceptor):
    """Ends every rpc that doesn't carry the passphrase with UNAUTHENTICATED.

    Raises:
        ValueError: no client could send this passphrase.
    """

    def __init__(self, passphrase: str) -> None:
        self._expected = check_passphrase(passphrase).encode()
        # On the wire all rpcs have one shape, so that this handler can answer a call of any.
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler of the call, or one that refuses it."""
        given = [_bytes(value) for key, value in handler_call_details.invocation_metadata if key == _KEY]
        if len(given) == 1 and hmac.compare_digest(given[0], self._expected):
            return await continuation(handler_call_details)
        return self._refusal


_KEY = PASSPHRASE_METADATA_KEY


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


async def _refuse(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the passphrase is missing or wrong")
