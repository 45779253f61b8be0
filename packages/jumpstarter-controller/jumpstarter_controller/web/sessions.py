"""Who is logged in at the pages: sessions of browsers, in memory, so that a restart ends them."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from aiohttp import web

from ..clock import Clock
from ..errors import Refused
from ..lab import Actor
from ..model.records import Kind

if TYPE_CHECKING:
    from ..identity.authenticate import Authenticator, Caller

COOKIE = "__Host-jumpstarter"
"""The prefix has browsers insist on TLS and on this very host."""

LIFE = timedelta(hours=12).total_seconds()
MOST = 2000
"""Sessions; the one that was not used for the longest time gives way to a new one."""

VISITORS = (Kind.CLIENT, Kind.ADMIN)
"""Whom the pages are for."""


@dataclass(frozen=True)
class _Session:
    actor: Caller
    until: float
    """Of the monotonic clock."""


class Sessions:
    """Takes tokens for cookies. Keeps neither: of a cookie only its hash, of a token what it proved."""

    def __init__(self, authenticator: Authenticator, clock: Clock) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    async def begin(self, token: str, peer: str) -> str:
        """Return the value of the cookie of a new session.

        Raises:
            Refused: the token is not good, or not that of a client or an admin.
        """
        actor = await self._authenticator.authenticate(
            (("authorization", f"Bearer {token}"),), peer, VISITORS, complete=True
        )
        life = min(LIFE, actor.proof.expires - self._clock.now().timestamp())
        cookie = secrets.token_urlsafe(32)
        self._sessions[_hashed(cookie)] = _Session(actor, self._clock.monotonic() + life)
        while len(self._sessions) > MOST:
            self._sessions.popitem(last=False)
        return cookie

    def end(self, cookie: str) -> None:
        """Forget a session."""
        self._sessions.pop(_hashed(cookie), None)

    def find(self, cookie: str) -> Actor | None:
        """Return who has a session, as long as that account and its token still count."""
        key = _hashed(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        try:
            if session.until <= self._clock.monotonic():
                raise _Over
            self._authenticator.reauthorize(session.actor)
        except (_Over, Refused):
            self._sessions.pop(key, None)
            return None
        self._sessions.move_to_end(key)
        return session.actor

    async def visitor(self, request: web.Request) -> Actor | None:
        """Return who makes a request, by its `Authorization` header or its cookie; None for strangers.

        Raises:
            Refused: the header is not good.
        """
        given = request.headers.getall("Authorization", ())
        if given:
            metadata = [("authorization", value) for value in given]
            return await self._authenticator.authenticate(metadata, request.remote or "", VISITORS, complete=True)
        return self.find(request.cookies.get(COOKIE, ""))


class _Over(Exception):
    """The time of a session is over."""


def _hashed(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
