"""Stream tokens: a router lets in who brings one, and joins the two that name the same stream.

JWTs as published controllers and routers exchange them (HS256, fact: issuer, audience, `sub` is the stream), with
extra claims that tell lease, client, exporter, role and side. Those routers ignore the extra claims, and tokens
without them are accepted.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..clock import Clock
from ..errors import Code, Refused
from .keys import STREAM_TOKEN_LIFE, StreamKeys

if TYPE_CHECKING:
    from joserfc.jwt import Token

ISSUER = "https://jumpstarter.dev/stream"
AUDIENCE = "https://jumpstarter.dev/router"

LEEWAY = timedelta(seconds=10)
"""How far the clocks of controller and router may be apart."""

MAX_TOKEN = 8192
"""Characters that a token may have."""


@dataclass(frozen=True, kw_only=True)
class StreamClaims:
    """What a stream token says; the texts are empty in tokens of published controllers."""

    stream: str
    """Identity of the stream; random."""
    lease: str = ""
    """Plain name of the lease, as the other names."""
    client: str = ""
    exporter: str = ""
    role: str = ""
    """owner, driver or watcher."""
    side: str = ""
    """client or exporter: two of the same side are never joined."""
    expires: float = 0
    """Seconds since 1970."""


class StreamTokens:
    """Issues and verifies stream tokens."""

    def __init__(self, keys: StreamKeys, clock: Clock, leeway: timedelta = LEEWAY) -> None:
        self._keys = keys
        self._clock = clock
        self._leeway = leeway.total_seconds()

    def issue(
        self,
        stream: str = "",
        *,
        lease: str = "",
        client: str = "",
        exporter: str = "",
        role: str = "",
        side: str = "",
        life: timedelta = STREAM_TOKEN_LIFE,
    ) -> str:
        """Return a token for one side of a stream; without `stream` for a new one."""
        from joserfc import jwt

        now = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": stream or str(uuid.uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + int(life.total_seconds()),
            "jti": str(uuid.uuid4()),
        }
        extra = {"lease": lease, "client": client, "exporter": exporter, "role": role, "side": side}
        claims.update((name, value) for name, value in extra.items() if value)
        return jwt.encode({"alg": "HS256"}, claims, _octets(self._keys.values[0]))

    def verify(self, token: str) -> StreamClaims:
        """Return what a token says.

        Raises:
            Refused: UNAUTHENTICATED `invalid jwt token`, as published routers say, and why.
        """
        claims = self._signed(token).claims
        try:
            begins, issued, expires = (float(claims.get(name, 0)) for name in ("nbf", "iat", "exp"))
            audience = claims.get("aud")
            texts = {
                name: _text(claims.get(name, "")) for name in ("sub", "lease", "client", "exporter", "role", "side")
            }
        except (TypeError, ValueError):
            raise _invalid("a claim is of the wrong type") from None
        now = self._clock.now().timestamp()
        if claims.get("iss") != ISSUER:
            raise _invalid("it is no stream token: the issuer differs")
        if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            raise _invalid("it is for another audience")
        if not texts["sub"]:
            raise _invalid("it names no stream")
        # Written so that "not a number" is refused too.
        if not now < expires + self._leeway:
            raise _invalid("token is expired; dial again")
        if not max(begins, issued) <= now + self._leeway:
            raise _invalid("it is not valid yet; compare the clocks of controller and router")
        stream = texts.pop("sub")
        return StreamClaims(stream=stream, expires=expires, **texts)

    def _signed(self, token: str) -> Token:
        from joserfc import jwt
        from joserfc.errors import BadSignatureError, JoseError

        if len(token) > MAX_TOKEN:
            raise _invalid("it is too long")
        for key in self._keys.values:
            try:
                return jwt.decode(token, _octets(key), algorithms=["HS256", "HS384", "HS512"])
            except BadSignatureError:
                continue
            except (JoseError, ValueError):
                raise _invalid("it is malformed") from None
        raise _invalid("the signature is wrong, so another controller signed it, or the key was replaced; dial again")


def _octets(key: bytes) -> Any:
    from joserfc.jwk import OctKey

    return OctKey.import_key(key)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _invalid(why: str) -> Refused:
    return Refused(Code.UNAUTHENTICATED, "STREAM_TOKEN_INVALID", f"invalid jwt token: {why}")
