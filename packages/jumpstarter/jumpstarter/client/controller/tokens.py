"""The token by which a client is known to the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import Asking

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2


class TokenCalls(Asking):
    """The rpcs about the token of the calling client."""

    async def rotate_token(self) -> client_pb2.RotateTokenResponse:
        """Return a new token of this client: an object with `token` and `expiry`."""
        async with self._calls() as calls:
            response: client_pb2.RotateTokenResponse = await calls.unary(
                "RotateToken", calls.pb.RotateTokenRequest(parent=calls.parent)
            )
            return response
