"""The keys that tokens are signed with: random, made at the first start, and kept as secrets of the store."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
from jumpstarter.common.exceptions import ConfigurationError

from ..clock import Clock
from ..store.base import StoreError

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

    from ..store.base import Store

logger = logging.getLogger(__name__)

ACCOUNT_SECRET = "account-keys"
"""Name of the secret with the keys of account tokens."""

STREAM_SECRET = "stream-keys"
"""Name of the secret with the keys of stream tokens."""

STREAM_TOKEN_LIFE = timedelta(minutes=30)
"""How long a stream token lasts, as with published controllers."""

STREAM_KEY_LIFE = timedelta(days=30)
"""How old the key of stream tokens gets before `Keys.keep_fresh` replaces it."""

MIN_STREAM_KEY = 16
"""Bytes that a key of stream tokens must have; shorter ones could be guessed."""


@dataclass(frozen=True)
class AccountKey:
    """A key pair of account tokens (ES256)."""

    kid: str
    key: ECKey
    until: datetime | None = None
    """Its tokens are accepted until then; None for the key that signs."""


class StreamKeys:
    """The keys of stream tokens (HS256), the newest first.

    Routers on other machines are told them, and hold one of these too.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys: tuple[bytes, ...] = ()
        self._changed = anyio.Event()
        if keys:
            self.replace(keys)

    @property
    def values(self) -> tuple[bytes, ...]:
        """The keys; the first one signs."""
        return self._keys

    def replace(self, keys: Sequence[bytes]) -> None:
        """Take other keys.

        Raises:
            ConfigurationError: there is none, or one that is too short to be safe.
        """
        if not keys or any(len(key) < MIN_STREAM_KEY for key in keys):
            raise ConfigurationError(
                f"keys of stream tokens need {MIN_STREAM_KEY} bytes at least, and there must be one"
            )
        if tuple(keys) == self._keys:
            return
        self._keys = tuple(keys)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait until the keys are replaced."""
        await self._changed.wait()


class Keys:
    """All keys of a controller.

    Several controllers on one store share them: the first one makes them.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.stream = StreamKeys()
        self._store = store
        self._clock = clock
        self._account: tuple[AccountKey, ...] = ()
        self._stream_made = clock.now()

    @classmethod
    async def load(cls, store: Store, clock: Clock) -> Keys:
        """Read the keys, and make those that aren't there yet.

        Raises:
            ConfigurationError: a secret is there but is none of ours, or is damaged.
            Unavailable: the store can't be read or written.
        """
        keys = cls(store, clock)
        await keys.reload()
        return keys

    async def reload(self) -> None:
        """Read the keys again, after another controller may have changed them."""
        kept = await self._store.secrets()
        for name, make in ((ACCOUNT_SECRET, _new_account_key), (STREAM_SECRET, _new_stream_key)):
            value = kept.get(name)
            if value is None:
                value = await self._store.put_secret(name, _document([make(self._clock.now())]))
            self._take(name, value)

    @property
    def account(self) -> tuple[AccountKey, ...]:
        """The keys of account tokens that are accepted now; the first one signs."""
        now = self._clock.now()
        if any(key.until is not None and key.until <= now for key in self._account):
            self._account = tuple(key for key in self._account if key.until is None or key.until > now)
        return self._account

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of account tokens as a JSON Web Key Set (RFC 7517)."""
        public = [
            {**key.key.as_dict(private=False), "kid": key.kid, "alg": "ES256", "use": "sig"} for key in self.account
        ]
        return {"keys": public}

    async def rotate_account_key(self, keep: timedelta) -> None:
        """Sign account tokens with a new key from now on.

        Args:
            keep: for how long the tokens of the former key are still accepted.
        """
        await self._rotate(ACCOUNT_SECRET, _new_account_key, keep)

    async def rotate_stream_key(self, keep: timedelta = STREAM_TOKEN_LIFE + timedelta(minutes=1)) -> None:
        """Sign stream tokens with a new key from now on; those of the former one last as long as `keep` says."""
        await self._rotate(STREAM_SECRET, _new_stream_key, keep)

    async def keep_fresh(self, interval: timedelta = timedelta(hours=1)) -> None:
        """Replace the key of stream tokens when it has become old, until cancelled.

        Former keys are dropped when no token of theirs can be valid any more, and keys that another controller has
        changed are taken over. While the store is away the keys stay as they are.
        """
        while True:
            await self._clock.sleep(interval.total_seconds())
            try:
                await self.reload()
                if self._clock.now() - self._stream_made >= STREAM_KEY_LIFE:
                    await self.rotate_stream_key()
            except (StoreError, ConfigurationError) as error:
                logger.warning("the keys of tokens stay as they are: %s", error)

    async def _rotate(self, name: str, make: Callable[[datetime], dict[str, str]], keep: timedelta) -> None:
        now = self._clock.now()
        former = []
        for entry in _entries(name, (await self._store.secrets())[name]):
            until = now + keep if "until" not in entry else datetime.fromisoformat(entry["until"])
            if until > now:
                former.append({**entry, "until": until.isoformat()})
        value = _document([make(now), *former])
        self._take(name, await self._store.put_secret(name, value, replace=True))

    def _take(self, name: str, value: bytes) -> None:
        entries = _entries(name, value)
        try:
            if name == ACCOUNT_SECRET:
                self._account = tuple(_account_key(entry) for entry in entries)
                return
            now = self._clock.now().isoformat()
            self.stream.replace([bytes.fromhex(e["key"]) for e in entries if e.get("until", now) >= now])
            self._stream_made = datetime.fromisoformat(entries[0]["made"])
        except (KeyError, ValueError) as error:
            raise _damaged(name) from error


def _new_account_key(now: datetime) -> dict[str, str]:
    from joserfc.jwk import ECKey

    pem = ECKey.generate_key("P-256").as_pem(private=True).decode()
    return {"kid": secrets.token_hex(8), "pem": pem, "made": now.isoformat()}


def _new_stream_key(now: datetime) -> dict[str, str]:
    return {"key": secrets.token_bytes(32).hex(), "made": now.isoformat()}


def _account_key(entry: dict[str, str]) -> AccountKey:
    from joserfc.jwk import ECKey

    until = datetime.fromisoformat(entry["until"]) if "until" in entry else None
    return AccountKey(entry["kid"], ECKey.import_key(entry["pem"]), until)


def _document(entries: list[dict[str, str]]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def _entries(name: str, value: bytes) -> list[dict[str, str]]:
    try:
        entries = json.loads(value)["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(name) from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(name)
    return entries


def _damaged(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the secret {name!r} in the store can't be read. Restore the store from a backup; or delete the secret, then"
        f" every {'account needs a new token' if name == ACCOUNT_SECRET else 'open stream has to be dialled again'}"
    )
