"""How controllers of one lab know each other: tokens of a minute, signed with the key of stream tokens."""

from __future__ import annotations

from typing import Any

import grpc

from ..clock import Clock
from ..identity.keys import StreamKeys

AUDIENCE = "https://jumpstarter.dev/peer"
LIFE = 60
LEEWAY = 10
"""Seconds."""

_HEADER = "authorization"


class Passes:
    """Makes and checks these tokens."""

    def __init__(self, keys: StreamKeys, clock: Clock, identity: str) -> None:
        self._keys = keys
        self._clock = clock
        self._identity = identity

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with a call."""
        from joserfc import jwt
        from joserfc.jwk import OctKey

        now = int(self._clock.now().timestamp())
        claims = {"aud": AUDIENCE, "sub": self._identity, "iat": now, "exp": now + LIFE}
        return ((_HEADER, f"Bearer {jwt.encode({'alg': 'HS256'}, claims, OctKey.import_key(self._keys.values[0]))}"),)

    async def check(self, context: Any) -> None:
        """Refuse a call that doesn't come from a controller of this lab."""
        given = dict(context.invocation_metadata() or ()).get(_HEADER, "")
        token = given.removeprefix("Bearer ") if isinstance(given, str) else ""
        if not any(self._valid(token, key) for key in self._keys.values):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this is for the controllers of this lab alone")

    def _valid(self, token: str, key: bytes) -> bool:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import OctKey

        try:
            claims = jwt.decode(token, OctKey.import_key(key), algorithms=["HS256"]).claims
            now = self._clock.now().timestamp()
            return claims.get("aud") == AUDIENCE and now < float(claims["exp"]) + LEEWAY
        except (JoseError, ValueError, KeyError, TypeError):
            return False
