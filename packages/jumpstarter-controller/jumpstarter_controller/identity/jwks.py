"""The public keys of a login provider: fetched when they are needed, kept while the provider is away."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from ..clock import Clock
from ..errors import Code, Refused
from .oidc_config import Issuer

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from joserfc.jwk import Key

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds that a provider gets to answer."""

MAX_ANSWER = 1 << 20
"""Bytes that an answer may have."""


@dataclass(kw_only=True)
class Intervals:
    """How often keys are fetched, in seconds."""

    unknown: float = 10.0
    """Between two attempts that tokens with unknown keys cause, so that made-up ones cause no flood."""
    refresh: float = 600.0
    """Known keys are fetched again after this, so that a key that the provider withdrew ends."""
    retry: float = 60.0
    """Until known keys are fetched again after that has failed."""


class FetchError(Exception):
    """The keys can't be fetched; says what failed and where."""


@dataclass(eq=False)
class ProviderKeys:
    """The keys of one provider.

    At most one fetch runs at a time. Callers whose key is known never wait for one that another caller has begun.
    """

    issuer: Issuer
    clock: Clock
    intervals: Intervals = field(default_factory=Intervals)
    _keys: dict[str, list[Key]] = field(default_factory=dict, init=False)
    _lock: anyio.Lock = field(default_factory=anyio.Lock, init=False)
    _attempted: float | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)
    _failure: str = field(default="", init=False)

    async def find(self, kid: str) -> list[Key]:
        """Return the keys of that identity; with an empty one all keys.

        Raises:
            Refused: UNAVAILABLE, there are no keys yet and the provider doesn't answer.
        """
        if not self._keys:
            await self._fetch_unless(lambda: bool(self._keys))
            if not self._keys:
                raise Refused(
                    Code.UNAVAILABLE,
                    "PROVIDER_UNAVAILABLE",
                    f"the login provider {self.issuer.url} can't be asked for its keys: {self._failure}; try again",
                )
        elif self.clock.monotonic() >= self._due and not self._lock.locked():
            await self._fetch_unless(lambda: self.clock.monotonic() < self._due)
        if self._known(kid):
            return self._known(kid)
        await self._fetch_unless(lambda: bool(self._known(kid)))
        return self._known(kid)

    def _known(self, kid: str) -> list[Key]:
        return self._keys.get(kid, []) if kid else [key for keys in self._keys.values() for key in keys]

    async def _fetch_unless(self, done: Callable[[], bool]) -> None:
        """Fetch the keys unless that is no longer necessary when it is our turn, or was tried a moment ago."""
        async with self._lock:
            now = self.clock.monotonic()
            if done() or (self._attempted is not None and now - self._attempted < self.intervals.unknown):
                return
            self._attempted = now
            try:
                self._keys = await self._fetch()
            except FetchError as error:
                self._due = self.clock.monotonic() + self.intervals.retry
                if str(error) != self._failure:
                    kept = "the keys fetched before stay valid" if self._keys else "its users can't log in"
                    logger.warning("login provider %s: %s; %s", self.issuer.url, error, kept)
                self._failure = str(error)
            else:
                self._due = self.clock.monotonic() + self.intervals.refresh
                self._failure = ""
            finally:
                self._attempted = self.clock.monotonic()

    async def _fetch(self) -> dict[str, list[Key]]:
        import aiohttp

        url = self.issuer.discovery_url or f"{self.issuer.url.rstrip('/')}/.well-known/openid-configuration"
        trust = await anyio.to_thread.run_sync(_trust, self.issuer.certificate_authority)
        try:
            with anyio.fail_after(TIMEOUT):
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), trust_env=True) as session:
                    discovery = await _get(session, url)
                    if discovery.get("issuer") != self.issuer.url:
                        raise FetchError(f"{url} says that its issuer is {discovery.get('issuer')!r}")
                    jwks_url = discovery.get("jwks_uri")
                    if not isinstance(jwks_url, str) or urlsplit(jwks_url).scheme != "https":
                        raise FetchError(f"{url} has no https:// URL as jwks_uri")
                    keys = _import((await _get(session, jwks_url)).get("keys"))
        except TimeoutError:
            raise FetchError(f"no answer within {TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise FetchError(f"{error}") from error
        if not keys:
            raise FetchError(f"{jwks_url} holds no key that can be used")
        return keys


async def _get(session: ClientSession, url: str) -> Mapping[str, Any]:
    # Not along redirects: they could lead to where nothing is encrypted.
    async with session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response:
        if response.status != 200:
            raise FetchError(f"{url} answers {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > MAX_ANSWER:
                raise FetchError(f"the answer of {url} is too long")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise FetchError(f"{url} answers something else than JSON") from None
    if not isinstance(value, dict):
        raise FetchError(f"{url} answers something else than an object")
    return value


def _import(entries: object) -> dict[str, list[Key]]:
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    keys: dict[str, list[Key]] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC") or entry.get("use", "sig") != "sig":
            continue
        try:
            key = import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            logger.info("a key of a login provider is left out, because it can't be read")
            continue
        keys.setdefault(str(entry.get("kid", "")), []).append(key)
    return keys


def _trust(authority: str) -> ssl.SSLContext:
    """Make a context that trusts the provider's authority; reads a file anew each time, because it may change."""
    if not authority:
        return ssl.create_default_context()
    try:
        pem = authority if "-----BEGIN" in authority else Path(authority).read_text()
        return ssl.create_default_context(cadata=pem)
    except (OSError, ValueError) as error:
        raise FetchError(f"certificateAuthority can't be used: {error}") from error
