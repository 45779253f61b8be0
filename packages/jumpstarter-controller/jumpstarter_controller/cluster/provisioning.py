"""Gives clients and exporters that were made as objects what peers and tools expect: a token in a Secret, an endpoint.

`jmp admin` of published releases makes an object, waits for `status.credential`, and reads the Secret of that name.
Routers that run in the cluster have their tokens from Secrets too.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import anyio
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Gone, NotFound
from jumpstarter_kubernetes.resources import CLIENTS, CONFIG_MAPS, EXPORTERS, SECRETS, Resource
from jumpstarter_kubernetes.values import MIGRATED_TOKEN

from ..errors import Refused
from ..identity.issuing import issue_token
from ..identity.tokens import Tokens
from ..lab import Actor, Lab
from ..model.records import Account, Exporter, Key, Kind, Meta
from ..store.kubernetes.objects import object_name

logger = logging.getLogger(__name__)

SERVER = Actor(kind="server", key=None)

CA_CONFIG_MAP = "jumpstarter-service-ca-cert"
"""Where `jmp admin` looks for what peers have to trust, under the key `ca.crt`."""

NEW = 1.0
"""Seconds that whoever has made an account has for giving it a token."""

GRACE = 3.0
"""Seconds that another controller, which has just issued a token, has for keeping it."""

PAUSE = 2.0
"""Seconds between two attempts when the cluster is away."""

LOOK_AGAIN = 3600.0
"""Seconds between two looks for tokens that have expired."""

SOON = timedelta(minutes=1)
"""Before its end a token in a Secret is replaced."""

ROUTER_SOON = timedelta(hours=3)
"""The same for routers, which can't ask for another one; longer than it takes to look again."""

_RESOURCES: Mapping[Kind, Resource] = {Kind.CLIENT: CLIENTS, Kind.EXPORTER: EXPORTERS}
_SUFFIXES = {Kind.CLIENT: "-client", Kind.EXPORTER: "-exporter"}

Object = dict[str, Any]


def secret_name(key: Key) -> str:
    """Return the name of the Secret with the token of a client, exporter or router."""
    return object_name(key) + _SUFFIXES.get(key.kind, "")


class Provisioner:
    """Looks after the tokens of a lab in a cluster.

    Args:
        endpoint: what peers dial.
        ca: what they have to trust, PEM; empty for the roots of their systems.
        routers: accounts that are made when they aren't there, and whose tokens are kept in their Secrets.
    """

    def __init__(
        self, cluster: Cluster, lab: Lab, tokens: Tokens, *, endpoint: str, ca: str, routers: Sequence[Key] = ()
    ) -> None:
        self._cluster = cluster
        self._lab = lab
        self._tokens = tokens
        self._endpoint = endpoint
        self._ca = ca
        self._routers = frozenset(routers)
        self._there: set[tuple[str, str]] = set()
        """Namespace and name of Secrets that hold a token."""
        self._due: dict[Key, float] = {}
        self._wake = anyio.Event()

    # -- keeping what is issued --------------------------------------------------------------------

    async def keep(self, key: Key, token: str) -> None:
        """Keep a token that was just issued; what can't be kept now is made good for by `run`.

        Tokens of admins, and of routers that are elsewhere, are nobody's but their owners'.
        """
        try:
            if key in self._routers:
                await self._keep_beside(key, token)
            elif key.kind in _RESOURCES:
                await self._keep(key, token)
        except ClusterError as error:
            logger.warning("the token of %s can't be kept in a Secret for now: %s", key, error)

    async def _keep(self, key: Key, token: str) -> None:
        resource, name = _RESOURCES[key.kind], secret_name(key)
        item = await self._cluster.get(resource, key.name, namespace=key.namespace)
        owner = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "name": key.name,
            "uid": item["metadata"]["uid"],
            "controller": True,
        }
        data = {"token": base64.b64encode(token.encode()).decode()}
        body: Object = {
            "metadata": {"name": name, "namespace": key.namespace, "ownerReferences": [owner]},
            "type": "Opaque",
            "data": data,
        }
        try:
            await self._cluster.create(SECRETS, body)
        except AlreadyExists:
            patch = {"metadata": {"ownerReferences": [owner]}, "data": data}
            await self._cluster.patch(SECRETS, name, patch, namespace=key.namespace)
        self._there.add((key.namespace, name))
        await self._tell(key, item)

    async def _keep_beside(self, key: Key, token: str) -> None:
        """Keep the token of a router in the Secret that its account is."""
        data = {"token": base64.b64encode(token.encode()).decode()}
        await self._cluster.patch(SECRETS, secret_name(key), {"data": data}, namespace=key.namespace)
        self._there.add((key.namespace, secret_name(key)))

    async def _tell(self, key: Key, item: Object) -> None:
        wanted = {"credential": {"name": secret_name(key)}, "endpoint": self._endpoint}
        status = item.get("status") or {}
        if any(status.get(name) != value for name, value in wanted.items()):
            await self._cluster.patch(
                _RESOURCES[key.kind], key.name, {"status": wanted}, namespace=key.namespace, status=True
            )

    # -- making good for what is missing -----------------------------------------------------------

    async def run(self) -> None:
        """Give credentials to all that lack them, until cancelled; for the process that leads."""
        while True:
            try:
                await self._publish_ca()
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._follow_secrets)
                    for kind in _RESOURCES:
                        await self._look_at_all(kind)
                        tasks.start_soon(self._follow_accounts, kind)
                    for key in self._routers:
                        self._look(key)
                    if self._routers:
                        tasks.start_soon(self._follow_accounts, Kind.ROUTER)
                    await self._work()
            except* ClusterError as errors:
                logger.warning("credentials can't be looked after for now: %s", errors.exceptions[0])
            await anyio.sleep(PAUSE)

    async def _publish_ca(self) -> None:
        if not self._ca:
            return
        body = {"metadata": {"name": CA_CONFIG_MAP}, "data": {"ca.crt": self._ca}}
        try:
            if (await self._cluster.get(CONFIG_MAPS, CA_CONFIG_MAP)).get("data") != body["data"]:
                await self._cluster.patch(CONFIG_MAPS, CA_CONFIG_MAP, {"data": body["data"]})
        except NotFound:
            await self._cluster.create(CONFIG_MAPS, body)

    async def _look_at_all(self, kind: Kind) -> None:
        """Bring what objects say up to date: they may be from before an endpoint was changed."""
        for account in self._lab.accounts(kind):
            self._look(account.key)
        more = ""
        while True:
            page = await self._cluster.list(_RESOURCES[kind], limit=500, more=more)
            for item in page.items:
                key = Key(kind, item["metadata"]["namespace"], item["metadata"]["name"])
                if (key.namespace, secret_name(key)) in self._there:
                    await self._tell(key, item)
            more = page.more
            if not more:
                return

    async def _follow_accounts(self, kind: Kind) -> None:
        async with self._lab.follow_all(kind, "") as changes:
            async for keys in changes:
                for key in keys:
                    self._look(key)

    def _look(self, key: Key) -> None:
        account = self._lab.account(key)
        if account is None and key in self._routers:
            self._set_due(key, 0.0)
            return
        if account is None or not self._lacks(account) or not self._cares(key):
            self._due.pop(key, None)
            return
        self._set_due(key, GRACE if account.credential.jti else NEW)

    def _lacks(self, account: Account | Exporter) -> bool:
        expires = account.credential.expires
        soon = ROUTER_SOON if account.key.kind is Kind.ROUTER else SOON
        if expires is not None and expires <= self._lab.clock.now() + soon:
            return True
        jti = account.credential.jti
        if jti and account.meta.annotations.get(MIGRATED_TOKEN) == jti:
            # Its owner has it; another one in its place would end it.
            return False
        return not jti or (account.key.namespace, secret_name(account.key)) not in self._there

    def _cares(self, key: Key) -> bool:
        return key.kind in _RESOURCES or key in self._routers

    def _set_due(self, key: Key, delay: float) -> None:
        moment = anyio.current_time() + delay
        self._due[key] = min(self._due.get(key, moment), moment)
        self._wake.set()

    async def _work(self) -> None:
        look_again = anyio.current_time() + LOOK_AGAIN
        while True:
            soonest = min(self._due.values(), default=look_again)
            self._wake = anyio.Event()
            with anyio.move_on_after(max(0.0, min(soonest, look_again) - anyio.current_time())):
                await self._wake.wait()
                continue
            if anyio.current_time() >= look_again:
                look_again += LOOK_AGAIN
                for kind in _RESOURCES:
                    for account in self._lab.accounts(kind):
                        self._look(account.key)
                for key in self._routers:
                    self._look(key)
            for key in [key for key, moment in self._due.items() if moment <= anyio.current_time()]:
                del self._due[key]
                await self._provide(key)

    async def _provide(self, key: Key) -> None:
        account = self._lab.account(key)
        try:
            if account is None and key in self._routers:
                router = Account(kind=Kind.ROUTER, meta=Meta(namespace=key.namespace, name=key.name))
                account = await self._lab.create_account(SERVER, router)
            if account is None or not self._lacks(account):
                return
            # Is kept by `keep`, as every token.
            await issue_token(self._lab, self._tokens, SERVER, key)
        except Refused as refused:
            logger.warning("%s can't be given a token for now: %s", key, refused)
            self._set_due(key, PAUSE)
            return
        if (key.namespace, secret_name(key)) not in self._there and self._lab.account(key) is not None:
            self._set_due(key, PAUSE)

    async def _follow_secrets(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        started = False
        while True:
            page = await self._cluster.list(SECRETS, all_namespaces=False)
            self._there = {place for item in page.items if (place := _holds_token(item)) is not None}
            if not started:
                started = True
                task_status.started()
            version = page.version
            try:
                while True:
                    async with self._cluster.watch(SECRETS, version=version) as events:
                        async for event in events:
                            version = event.object["metadata"]["resourceVersion"]
                            self._secret_changed(event.type, event.object)
            except Gone:
                continue

    def _secret_changed(self, what: str, item: Object) -> None:
        if what == "BOOKMARK":
            return
        place = item["metadata"]["namespace"], item["metadata"]["name"]
        if what != "DELETED" and _holds_token(item) is not None:
            self._there.add(place)
            return
        if place not in self._there:
            return
        self._there.discard(place)
        for kind, suffix in _SUFFIXES.items():
            if place[1].endswith(suffix):
                # Deleting it is how older releases ask for another token.
                key = Key(kind, place[0], place[1].removesuffix(suffix))
                if self._lab.account(key) is not None:
                    self._set_due(key, 0.0)
        for key in self._routers:
            if place == (key.namespace, secret_name(key)):
                self._look(key)


def _holds_token(item: Object) -> tuple[str, str] | None:
    if not (item.get("data") or {}).get("token"):
        return None
    return item["metadata"]["namespace"], item["metadata"]["name"]
