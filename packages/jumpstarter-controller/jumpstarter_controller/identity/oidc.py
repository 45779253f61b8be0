"""Users of login providers (OpenID Connect): whose token it is, judged by the settings of the provider."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jumpstarter.common.exceptions import ConfigurationError

from ..clock import Clock
from ..errors import Code, Refused
from . import oidc_config
from .expressions import Expression
from .jwks import Intervals, ProviderKeys
from .oidc_config import JWTAuthenticator, PrefixedClaim
from .tokens import MAX_TOKEN, expired, invalid, unverified

ALGORITHMS = [f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512)]
"""How providers may sign; symmetric algorithms and `none` are not among them."""

LEEWAY = 10.0
"""Seconds that the clocks of provider and server may be apart."""

REMEMBERED = 300.0
"""Seconds after which a token is verified anew, in case the provider has withdrawn its key."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of a login provider, by the name that accounts know."""

    username: str
    expires: float
    """When the token ends, in seconds since 1970."""


class Provider:
    """One login provider.

    Raises:
        ConfigurationError: an expression can't be used.
    """

    def __init__(self, config: JWTAuthenticator, where: str, clock: Clock, intervals: Intervals | None = None) -> None:
        self.config = config
        self._clock = clock
        self._keys = ProviderKeys(config.issuer, clock, intervals or Intervals())
        mappings = config.claim_mappings
        claims = {
            "claimMappings.username.expression": mappings.username.expression,
            "claimMappings.groups.expression": mappings.groups.expression,
            "claimMappings.uid.expression": mappings.uid.expression,
        }
        claims.update(
            (f"claimMappings.extra[{i}].valueExpression", extra.value_expression)
            for i, extra in enumerate(mappings.extra)
        )
        claims.update(
            (f"claimValidationRules[{i}].expression", rule.expression)
            for i, rule in enumerate(config.claim_validation_rules)
        )
        users = {
            f"userValidationRules[{i}].expression": rule.expression
            for i, rule in enumerate(config.user_validation_rules)
        }
        self._expressions: dict[str, Expression] = {}
        for sources, variable in ((claims, "claims"), (users, "user")):
            for path, source in sources.items():
                if source:
                    self._expressions[source] = Expression(source, f"{where}.{path}", [variable])

    async def verify(self, token: str) -> User:
        """Return whose token it is.

        Raises:
            Refused: the token or the user isn't good enough (UNKNOWN), or the provider is away (UNAVAILABLE).
        """
        from joserfc import jwt
        from joserfc.errors import JoseError

        header, _ = unverified(token)
        kid = header.get("kid", "")
        for key in await self._keys.find(kid if isinstance(kid, str) else ""):
            try:
                claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
            except (JoseError, ValueError, TypeError):
                continue
            return self._user(claims)
        raise invalid(f"failed to verify signature with the keys of {self.config.issuer.url}")

    def _user(self, claims: Mapping[str, Any]) -> User:
        expires = self._check_times(claims)
        if not set(_texts(claims.get("aud"))) & set(self.config.issuer.audiences):
            wanted = ", ".join(self.config.issuer.audiences)
            raise invalid(f"it is for another audience than {wanted}")
        for rule in self.config.claim_validation_rules:
            if rule.claim:
                value = claims.get(rule.claim)
                if not isinstance(value, str) or value != rule.required_value:
                    raise invalid(f"the claim {rule.claim} has not the value that it must have")
            elif self._evaluate(rule.expression, {"claims": claims}) is not True:
                raise invalid(rule.message or f"its claims don't meet the rule {rule.expression}")
        username = self._username(claims)
        if self.config.user_validation_rules:
            self._check_user(username, claims)
        return User(username, expires)

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        now = self._clock.now().timestamp()
        expires: Any = claims.get("exp")
        begins: Any = claims.get("nbf", 0)
        if not _is_time(expires) or not _is_time(begins):
            raise invalid("it has no proper expiry")
        if expires + LEEWAY <= now:
            raise expired(max(expires, 0.0))
        if begins > now + LEEWAY:
            raise invalid("it is not valid yet; compare the clocks of the login provider and the controller")
        return float(expires)

    def _username(self, claims: Mapping[str, Any]) -> str:
        mapping = self.config.claim_mappings.username
        if mapping.claim:
            if mapping.claim == "email" and claims.get("email_verified", True) is not True:
                raise invalid("the login provider has not verified the e-mail address")
            value = claims.get(mapping.claim)
            text = f"{mapping.prefix}{value}" if isinstance(value, str) and value else ""
        else:
            value = self._evaluate(mapping.expression, {"claims": claims})
            text = value if isinstance(value, str) else ""
        if not text:
            raise invalid(f"it gives no user name through {mapping.claim or mapping.expression}")
        return text

    def _check_user(self, username: str, claims: Mapping[str, Any]) -> None:
        mappings = self.config.claim_mappings
        uid = mappings.uid.claim and claims.get(mappings.uid.claim)
        if mappings.uid.expression:
            uid = self._evaluate(mappings.uid.expression, {"claims": claims})
        user = {
            "username": username,
            "groups": self._groups(mappings.groups, claims),
            "uid": uid if isinstance(uid, str) else "",
            "extra": {
                extra.key: _texts(self._evaluate(extra.value_expression, {"claims": claims}))
                for extra in mappings.extra
            },
        }
        for rule in self.config.user_validation_rules:
            if self._evaluate(rule.expression, {"user": user}) is not True:
                raise invalid(rule.message or f"the user doesn't meet the rule {rule.expression}")

    def _groups(self, mapping: PrefixedClaim, claims: Mapping[str, Any]) -> list[str]:
        if mapping.expression:
            return _texts(self._evaluate(mapping.expression, {"claims": claims}))
        return [f"{mapping.prefix}{group}" for group in _texts(claims.get(mapping.claim))] if mapping.claim else []

    def _evaluate(self, source: str, variables: Mapping[str, Any]) -> Any:
        try:
            return self._expressions[source].evaluate(variables)
        except ValueError as error:
            raise invalid(f"the rule {source} can't be applied to it ({str(error)[:200]})") from None


class Providers:
    """All login providers of a server.

    Args:
        entries: the settings, as in `Settings.jwt`.
        reserved: beginnings of user names that are the server's own.

    Raises:
        ConfigurationError: something is wrong in the settings; names the place.
    """

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        clock: Clock,
        *,
        reserved: Sequence[str] = (),
        intervals: Intervals | None = None,
        cache: int = 8192,
    ) -> None:
        self._clock = clock
        self._reserved = tuple(prefix for prefix in reserved if prefix)
        self._providers: dict[str, Provider] = {}
        for index, config in enumerate(oidc_config.read(entries)):
            where = f"authentication.jwt[{index}]"
            prefix = config.claim_mappings.username.prefix or ""
            if prefix.startswith(self._reserved):
                raise ConfigurationError(f"{where}.claimMappings.username.prefix: {prefix} is for this server's tokens")
            self._providers[config.issuer.url] = Provider(config, where, clock, intervals)
        self._cache: OrderedDict[bytes, tuple[User, float]] = OrderedDict()
        self._cache_size = cache

    def knows(self, issuer: str) -> bool:
        """Tell whether an issuer is one of the providers."""
        return issuer in self._providers

    def remembered(self, token: str) -> User | None:
        """Return the user of a token that was verified a moment ago, without waiting for anything.

        Raises:
            Refused: it has expired since.
        """
        if not self._cache:
            return None
        found = self._cache.get(hashlib.sha256(token.encode()).digest())
        if found is None or self._clock.monotonic() > found[1]:
            return None
        if found[0].expires + LEEWAY <= self._clock.now().timestamp():
            raise expired(found[0].expires)
        return found[0]

    async def verify(self, issuer: str, token: str) -> User:
        """Return the user of a token of a provider.

        Raises:
            Refused: see `Provider.verify`.
        """
        if len(token) > MAX_TOKEN:
            raise invalid("it is too long")
        user = await self._providers[issuer].verify(token)
        if user.username.startswith(self._reserved):
            raise Refused(
                Code.PERMISSION_DENIED,
                "USERNAME_RESERVED",
                f"permission denied: the user name {json.dumps(user.username[:200])} begins as those of this server do",
            )
        self._cache[hashlib.sha256(token.encode()).digest()] = (user, self._clock.monotonic() + REMEMBERED)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return user


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    return list(value) if isinstance(value, list) and _is_texts(value) else []
