"""Account tokens: what clients, exporters, admins and routers show with every call.

JWTs in the form that published peers and tools know (ES256, issuer, audience, `sub`), and beside that `jti` and `kid`:
the server remembers which token of an account is the valid one, so that a replaced one ends.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from .. import settings
from ..clock import Clock
from ..errors import Code, Refused
from ..model.records import Account, Credential, Exporter, Key, Kind
from .keys import Keys

ISSUER = "https://localhost:8085"
"""Issuer of account tokens: the address of the endpoint that published controllers verify them with."""

AUDIENCE = "jumpstarter"

MAX_TOKEN = 16384
"""Characters that a token may have."""

MAX_FORMER = 8
"""Replaced tokens that are remembered for their grace time; beyond that the oldest ends early."""

MIGRATED_NAMESPACE = "jumpstarter.dev/migrated-namespace"
MIGRATED_UID = "jumpstarter.dev/migrated-uid"
"""Annotations of accounts that came from another installation, with what their tokens say there."""

_KINDS = {"client": Kind.CLIENT, "exporter": Kind.EXPORTER, "admin": Kind.ADMIN, "router": Kind.ROUTER}
_WORDS = {kind: word for word, kind in _KINDS.items()}

_LEEWAY = 60
"""Seconds that the time of issue may lie ahead, for controllers that share a store."""


def kind_word(kind: Kind) -> str:
    """Return `client`, `exporter`, `admin` or `router`, as in tokens and in `Actor.kind`."""
    return _WORDS[kind]


@dataclass(frozen=True, slots=True)
class AccountToken:
    """A token whose signature, issuer and audience are right."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    jti: str
    kid: str
    expires: float
    """Seconds since 1970."""

    @property
    def subject(self) -> str:
        return f"{kind_word(self.kind)}:{self.namespace}:{self.name}:{self.uid}"


class Tokens:
    """Issues account tokens and verifies them.

    Args:
        cache: how many verified tokens are remembered, so that a signature is computed once; their hashes, never the
            tokens.
    """

    def __init__(self, keys: Keys, settings: settings.Tokens, clock: Clock, *, cache: int = 8192) -> None:
        self.settings = settings
        self._keys = keys
        self._clock = clock
        self._cache: OrderedDict[bytes, AccountToken] = OrderedDict()
        self._cache_size = cache

    def issue(
        self, account: Account | Exporter, *, life: timedelta | None = None, grace: timedelta | None = None
    ) -> tuple[str, Credential]:
        """Return a new token for an account, and what the account has to remember of it.

        The token counts once the account has been stored with the credential.

        Args:
            account: as it is in the store now; its `credential` says which token is replaced.
            life: how long the token lasts; None for what the settings say.
            grace: for how long the token that it replaces is still accepted; None for what the settings say.
        """
        from joserfc import jwt

        if not account.meta.uid:
            raise ValueError(f"{account.key} has no uid yet: store it first")
        now = self._clock.now()
        expires = now + (self.settings.life if life is None else life)
        jti = str(uuid.uuid4())
        namespace = account.meta.annotations.get(MIGRATED_NAMESPACE) or account.meta.namespace
        uid = account.meta.annotations.get(MIGRATED_UID) or account.meta.uid
        key = self._keys.account[0]
        token = jwt.encode(
            {"alg": "ES256", "kid": key.kid},
            {
                "iss": ISSUER,
                "aud": [AUDIENCE],
                "sub": f"{kind_word(account.key.kind)}:{namespace}:{account.meta.name}:{uid}",
                "iat": int(now.timestamp()),
                "exp": int(expires.timestamp()),
                "jti": jti,
            },
            key.key,
        )
        return token, self._replace(account.credential, jti, expires, self.settings.grace if grace is None else grace)

    def _replace(self, old: Credential, jti: str, expires: datetime, grace: timedelta) -> Credential:
        now = self._clock.now()
        former = list(old.former)
        if old.jti:
            former.append((old.jti, now + grace))
        if not grace:
            former = []
        kept = tuple(entry for entry in former if entry[1] > now)[-MAX_FORMER:]
        return Credential(jti=jti, expires=expires, former=kept)

    def verify(self, token: str) -> AccountToken:
        """Return what a token says, after looking at its signature, issuer, audience and expiry.

        Whether its account still wants it is `check`'s to say.

        Raises:
            Refused: UNKNOWN, as published controllers answer to tokens they can't verify.
        """
        found = self.remembered(token)
        if found is None:
            found = self._verified(token)
            self._check_expiry(found)
            self._cache[hashlib.sha256(token.encode()).digest()] = found
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return found

    def remembered(self, token: str) -> AccountToken | None:
        """Return what a token says that `verify` has accepted before and would accept now.

        Raises:
            Refused: it has expired since.
        """
        digest = hashlib.sha256(token.encode()).digest()
        found = self._cache.get(digest)
        if found is None or not any(key.kid == found.kid for key in self._keys.account):
            return None
        self._cache.move_to_end(digest)
        self._check_expiry(found)
        return found

    def _check_expiry(self, token: AccountToken) -> None:
        if token.expires <= self._clock.now().timestamp():
            raise expired(token.expires)

    def _verified(self, token: str) -> AccountToken:
        from joserfc import jwt
        from joserfc.errors import JoseError

        if len(token) > MAX_TOKEN:
            raise invalid("it is too long")
        kid = unverified(token)[0].get("kid")
        candidates = [key for key in self._keys.account if kid is None or key.kid == kid]
        if not candidates:
            raise invalid("failed to verify signature: it was signed by another installation, or before a new key")
        for key in candidates:
            try:
                claims = jwt.decode(token, key.key, algorithms=["ES256"]).claims
            except (JoseError, ValueError):
                continue
            return _account_token(claims, key.kid, self._clock.now())
        raise invalid("failed to verify signature")

    def check(self, token: AccountToken, account: Account | Exporter) -> None:
        """Make sure that a verified token is one of an account's, and one that is still accepted.

        Raises:
            Refused: PERMISSION_DENIED when it belongs to another account, or to a former one of that name; UNKNOWN
                when it was replaced or revoked.
        """
        meta = account.meta
        namespaces, uids = {meta.namespace}, {meta.uid}
        if meta.annotations:
            namespaces.add(meta.annotations.get(MIGRATED_NAMESPACE) or meta.namespace)
            uids.add(meta.annotations.get(MIGRATED_UID) or meta.uid)
        if token.kind is not account.key.kind or token.name != meta.name or token.namespace not in namespaces:
            raise not_yours(account.key)
        if not token.uid or token.uid not in uids:
            raise not_yours(account.key, "; the token belongs to an account of that name that was deleted")
        credential = account.credential
        if token.jti != credential.jti or not token.jti:
            until = dict(credential.former).get(token.jti)
            if until is None or until <= self._clock.now():
                raise Refused(
                    Code.UNKNOWN,
                    "TOKEN_REPLACED",
                    f"the token of {described(account.key)} was replaced by a newer one or revoked; use the newer one,"
                    " or ask an administrator for another",
                )

    def accepted_until(self, token: AccountToken, account: Account | Exporter) -> datetime | None:
        """Return when the grace time of a replaced token ends, None for the valid one."""
        return dict(account.credential.former).get(token.jti) if token.jti != account.credential.jti else None


def described(key: Key) -> str:
    """Return how an account is called in messages, such as `client default/alice`."""
    return f"{kind_word(key.kind)} {key.namespace}/{key.name}"


def not_yours(key: Key, more: str = "") -> Refused:
    """Make the refusal of a token or user that isn't the account's; published peers look for its first words."""
    return Refused(
        Code.PERMISSION_DENIED,
        "IDENTITY_MISMATCH",
        f"permission denied: this login is not that of {described(key)}{more}; check name and namespace in the config,"
        " or ask an administrator for a token",
    )


def invalid(why: str) -> Refused:
    """Make the refusal of a token that can't be verified."""
    return Refused(
        Code.UNKNOWN,
        "TOKEN_INVALID",
        f"failed to authenticate token: {why}; log in again, or ask an administrator for a new token",
    )


def expired(at: float) -> Refused:
    """Make the refusal of a token that ended; at `token is expired` published command lines log in again."""
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Refused(
        Code.UNKNOWN,
        "TOKEN_EXPIRED",
        f"token is expired since {when}; log in again, or ask an administrator for a new token",
        {"expired": when},
    )


def unverified(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims of a token that nobody has verified, for finding out who could.

    Raises:
        Refused: it is no JWT.
    """
    parts = token.split(".")
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, binascii.Error, RecursionError):
        raise invalid("it is malformed") from None
    if len(parts) != 3 or not isinstance(header, dict) or not isinstance(claims, dict):
        raise invalid("it is malformed")
    return header, claims


def _account_token(claims: Mapping[str, Any], kid: str, now: datetime) -> AccountToken:
    audience = claims.get("aud")
    if claims.get("iss") != ISSUER:
        raise invalid("the issuer differs")
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise invalid("it is for another audience")
    subject, jti, expires, issued = claims.get("sub"), claims.get("jti"), claims.get("exp"), claims.get("iat")
    parts = subject.split(":") if isinstance(subject, str) else []
    if len(parts) != 4 or parts[0] not in _KINDS or not isinstance(jti, str):
        raise invalid("it names no account")
    if not isinstance(expires, int) or not isinstance(issued, int):
        raise invalid("it has no times")
    if issued > now.timestamp() + _LEEWAY:
        raise invalid("it is not valid yet; compare the clocks of the controllers")
    kind, namespace, name, uid = parts
    return AccountToken(_KINDS[kind], namespace, name, uid, jti, kid, float(expires))
