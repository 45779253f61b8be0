"""Who makes a call, and whether the call may be of that kind at all.

The steps, codes and texts are those of published controllers, which peers of 0.9 match on: the token gives a user, the
metadata name an account, the account must be that user's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from ..errors import Code, Refused
from ..lab import Actor, Lab
from ..model.records import Account, Exporter, Key, Kind, Meta
from ..settings import Settings
from .keys import Keys
from .naming import derive_name, is_name, is_service_account
from .oidc import Providers, User
from .request import KINDS, Metadata, Request, peer_address, quoted
from .tokens import ISSUER, AccountToken, Tokens, described, invalid, kind_word, not_yours, unverified

logger = logging.getLogger(__name__)

OWN_PREFIX = "internal:"
"""Beginning of the user names of the server's own tokens in published installations."""


@dataclass(frozen=True, kw_only=True)
class Caller(Actor):
    """An actor that has shown a token, and which one."""

    uid: str
    """Of its account."""
    proof: AccountToken | User = field(repr=False)


class Authenticator:
    """Tells who makes a call.

    Raises:
        ConfigurationError: the settings of a login provider are wrong.
    """

    def __init__(self, lab: Lab, keys: Keys, settings: Settings) -> None:
        self.tokens = Tokens(keys, settings.tokens, lab.clock)
        self.providers = Providers(settings.jwt, lab.clock, reserved=(OWN_PREFIX, settings.tokens.prefix))
        self._lab = lab
        self._settings = settings

    async def authenticate(
        self, metadata: Metadata, peer: str, expected: Kind | Collection[Kind], *, complete: bool = False
    ) -> Caller:
        """Return who makes a call.

        Args:
            metadata: of the call; keys in any case.
            peer: where it comes from, as gRPC says it, or a plain address.
            expected: the kinds of account that may make it.
            complete: take kind, namespace and name from the token where the metadata lack them, for HTTP, where
                there is an `Authorization` header and nothing more.

        Raises:
            Refused: with the codes of published controllers; logged once, with the peer, without the token.
        """
        kinds = (expected,) if isinstance(expected, Kind) else expected
        address = peer_address(peer)
        try:
            request = Request.of(metadata)
            proof = await self._prove(request.token)
            if complete:
                request = self._completed(request, proof, kinds)
            return await self._identify(request, proof, address, kinds)
        except Refused as refused:
            kind = next(
                (KINDS[text] for key, text in metadata if key.lower() == "jumpstarter-kind" and text in KINDS), None
            )
            word = kind_word(kind if kind in kinds and kind is not None else next(iter(kinds)))
            logger.warning("%s authentication failed: peer %s: %s", word, quoted(address)[1:-1], refused)
            raise

    def reauthorize(self, actor: Actor) -> None:
        """Make sure that an actor of a long call would still be let in, but for the expiry of its token.

        Raises:
            Refused: the account was deleted, deleted and made anew, or disabled, or its token was replaced and the
                grace time is over.
        """
        if isinstance(actor, Caller) and actor.key is not None:
            self._check(actor.key, actor.proof, actor.uid)

    async def lapsed(self, actor: Actor) -> Refused:
        """Wait until `reauthorize` refuses an actor, and return that refusal; for a task beside a long call."""
        if actor.key is None:
            await anyio.sleep_forever()
        assert actor.key is not None
        refusal: Refused | None = None
        async with anyio.create_task_group() as tasks:

            def look() -> bool:
                nonlocal refusal
                try:
                    self.reauthorize(actor)
                except Refused as refused:
                    refusal = refused
                    tasks.cancel_scope.cancel()
                return refusal is not None

            async def look_at(moment: datetime) -> None:
                while not look():
                    remaining = (moment - self._lab.clock.now()).total_seconds()
                    await self._lab.clock.sleep(max(remaining, 0.05))

            timed: datetime | None = None
            async with self._lab.follow(actor.key) as changes:
                async for _ in changes:
                    if look():
                        break
                    moment = self._ends(actor)
                    if moment is not None and moment != timed:
                        timed = moment
                        tasks.start_soon(look_at, moment)
        if refusal is None:
            raise RuntimeError(f"the lab stopped telling of changes of {actor.key}")
        return refusal

    def _ends(self, actor: Actor) -> datetime | None:
        if not isinstance(actor, Caller) or actor.key is None or not isinstance(actor.proof, AccountToken):
            return None
        account = self._lab.account(actor.key)
        return self.tokens.accepted_until(actor.proof, account) if account is not None else None

    async def _prove(self, token: str) -> AccountToken | User:
        user = self.providers.remembered(token)
        if user is not None:
            return user
        known = self.tokens.remembered(token)
        if known is not None:
            return known
        issuer = unverified(token)[1].get("iss")
        if isinstance(issuer, str) and self.providers.knows(issuer):
            return await self.providers.verify(issuer, token)
        if issuer == ISSUER:
            return self.tokens.verify(token)
        raise invalid("no login provider of this server issued it")

    def _completed(self, request: Request, proof: AccountToken | User, kinds: Collection[Kind]) -> Request:
        name: tuple[str, ...]
        if isinstance(proof, AccountToken):
            kind, namespace, name = proof.kind, proof.namespace, (proof.name,)
        else:
            kind, namespace, name = next(iter(kinds)), self._settings.namespace, ()
        word = next(word for word, one in KINDS.items() if one is kind)
        return Request(
            request.token, request.kinds or (word,), request.namespaces or (namespace,), request.names or name
        )

    async def _identify(
        self, request: Request, proof: AccountToken | User, address: str, kinds: Collection[Kind]
    ) -> Caller:
        namespace = request.namespace()
        kind = request.kind(kinds)
        name = request.name() if isinstance(proof, AccountToken) else self._name(request, proof.username)
        key = Key(kind, namespace, name)
        if self._lab.account(key) is None and isinstance(proof, User):
            await self._provision(key, proof, address)
        account = self._check(key, proof)
        return Caller(kind=kind_word(kind), key=key, peer=address, uid=account.meta.uid, proof=proof)

    def _name(self, request: Request, username: str) -> str:
        if is_service_account(username):
            return request.name()
        derived = derive_name(username)
        if not derived:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "NAME_UNUSABLE",
                f"no name of an account can be made of the user name {quoted(username)}",
            )
        supplied = request.names[0] if len(request.names) == 1 else ""
        if supplied and supplied != derived:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "NAME_MISMATCH",
                f"the name {quoted(supplied)} in the config is not the expected name {quoted(derived)} of the user"
                f" {quoted(username)}; change it, or leave it out",
                {"supplied": quoted(supplied), "expected": derived},
            )
        return derived

    def _check(self, key: Key, proof: AccountToken | User, uid: str = "") -> Account | Exporter:
        account = self._lab.account(key)
        if account is None:
            raise Refused(
                Code.UNKNOWN,
                "ACCOUNT_UNKNOWN",
                f"{kind_word(key.kind)} {quoted(f'{key.namespace}/{key.name}')} not found; ask an administrator to"
                " create it, or check name and namespace in the config",
            )
        if isinstance(proof, AccountToken):
            self.tokens.check(proof, account)
        elif account.username != proof.username:
            raise not_yours(key, "; another user has that name")
        if uid and uid != account.meta.uid:
            raise not_yours(key, "; it was deleted and made anew")
        # An exporter that isn't enabled only takes no new lease.
        if isinstance(account, Account) and not account.enabled:
            raise Refused(
                Code.PERMISSION_DENIED,
                "ACCOUNT_DISABLED",
                f"permission denied: {described(key)} is disabled; ask an administrator to enable it",
            )
        return account

    async def _provision(self, key: Key, user: User, address: str) -> None:
        """Make the client of a user who is here for the first time, where the settings want that."""
        if not self._settings.provisioning or key.kind is not Kind.CLIENT or not is_name(key.name):
            return
        if key.namespace != self._settings.namespace:
            raise Refused(
                Code.PERMISSION_DENIED,
                "NAMESPACE_NOT_PROVISIONED",
                f"permission denied: {quoted(f'{key.namespace}/{key.name}')} is no client yet, and new ones are made in"
                f" the namespace {self._settings.namespace} only; set it in the config, or ask an administrator",
            )
        client = Account(kind=key.kind, meta=Meta(namespace=key.namespace, name=key.name), username=user.username)
        try:
            await self._lab.create_account(Actor(kind="server", key=None, peer=address), client)
        except Refused as refused:
            # Another call of the same user was faster.
            if refused.code is not Code.ALREADY_EXISTS:
                raise
