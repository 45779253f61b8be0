"""The backend of `--kubeconfig` and `--context`: what commands ask of a lab is asked of its cluster."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
from jumpstarter_kubernetes import values
from jumpstarter_kubernetes.access import InCluster, Kubeconfig
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import Forbidden, NotFound
from jumpstarter_kubernetes.resources import CONFIG_MAPS, LEASES, POLICIES, SECRETS, Resource
from jumpstarter_kubernetes.values import Object, annotation, named

from ..backend import ALL_NAMESPACES
from ..records import Account, AuditEntry, AuditQuery, Credentials, Kind, Labels, Policy, Router, Server
from . import objects
from .errors import check_name, check_namespace, refusal, told

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

PAGE = 500

CREDENTIAL_SECONDS = 20.0
"""So long a controller may take to give a new client or exporter its credential."""

END_SECONDS = 10.0
"""So long a controller may take to end a lease."""

LOOK = 0.25
"""Seconds between two looks."""

AUDIT_PAGE = 500

RELEASE_REASON = f"{values.PREFIX}release-reason"
"""Annotation of leases: why an administrator has ended it."""

CONTROLLER_CONFIG = "jumpstarter-controller"
"""ConfigMap of published controllers; its key `router` holds their routers as YAML."""


def open_cluster(kubeconfig: str | None, context: str | None) -> tuple[str, OpenCluster]:
    """Return the namespace of a context, and what connects to its cluster.

    Raises:
        KubeconfigError: there is no usable way to a cluster.
    """

    async def place() -> str:
        config = Kubeconfig(kubeconfig or "", context)
        if not kubeconfig and not context and not any(map(Path.exists, config.files)) and InCluster.present():
            return (await InCluster().read()).namespace
        return (await config.place())[1]

    return anyio.run(place), OpenCluster(kubeconfig, context)


class OpenCluster:
    """A connection to a cluster, as an asynchronous context manager."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        self._cluster = Cluster.from_config(kubeconfig, context)

    async def __aenter__(self) -> ClusterBackend:
        return ClusterBackend(await self._cluster.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cluster.__aexit__(kind, error, trace)


class ClusterBackend:
    """An open connection to a cluster with a lab in it, as whoever the kubeconfig says."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def server(self) -> Server:
        return Server(
            version=f"Kubernetes {await self._cluster.server_version()}",
            namespace=self._cluster.namespace,
            admin=self._cluster.context,
            endpoint=self._cluster.server,
            everywhere=False,
        )

    async def _all(self, resource: Resource, namespace: str, *, labels: str = "") -> list[Object]:
        found: list[Object] = []
        more = ""
        place: dict[str, Any] = {"all_namespaces": True} if namespace == ALL_NAMESPACES else {"namespace": namespace}
        if namespace != ALL_NAMESPACES:
            check_namespace(namespace)
        while True:
            page = await self._cluster.list(resource, labels=labels, limit=PAGE, more=more, **place)
            found += page.items
            more = page.more
            if not more:
                return found

    # -- accounts --------------------------------------------------------------------------------

    async def _object(self, kind: Kind, namespace: str, name: str) -> Object:
        check_namespace(namespace)
        check_name(name, f"{kind.value}s")
        with told(kind, name, namespace):
            return await self._cluster.get(
                objects.RESOURCES[kind], objects.object_name(kind, name), namespace=namespace
            )

    async def create_account(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        labels: Labels,
        username: str = "",
        token_life: timedelta | None = None,
    ) -> Credentials:
        _refuse_tokens(kind, "create")
        _refuse_life(token_life)
        check_namespace(namespace)
        check_name(name, f"{kind.value}s")
        body = objects.new_account(kind, namespace, name, labels, username)
        with told(kind, name, namespace):
            await self._cluster.create(objects.RESOURCES[kind], body)
        found = await self._wait_for_token(kind, namespace, name)
        if found is None:
            raise refusal(
                "DEADLINE_EXCEEDED",
                "NO_CREDENTIAL",
                f"{kind} {name!r} was made in namespace {namespace!r}, but got no credential within "
                f"{CREDENTIAL_SECONDS:g} s: no controller of Jumpstarter seems to work there",
                f"Once one does: jmp admin import {kind} {name}. To take it back: jmp admin delete {kind} {name}",
            )
        return found

    async def get_account(self, kind: Kind, namespace: str, name: str) -> Account:
        item = await self._object(kind, namespace, name)
        lease = named((item.get("status") or {}).get("leaseRef")) if kind is Kind.EXPORTER else ""
        holders = {}
        if lease:
            try:
                held = await self._cluster.get(LEASES, lease, namespace=namespace)
                holders[lease] = named(held["spec"].get("clientRef"))
            except NotFound:
                # It was removed since.
                pass
        return objects.account(kind, item, holders)

    async def list_accounts(
        self, kind: Kind, namespace: str, *, selector: str = "", devices: bool = False
    ) -> Sequence[Account]:
        if kind in (Kind.ADMIN, Kind.ROUTER):
            if selector:
                raise refusal(
                    "INVALID_ARGUMENT",
                    "INVALID_SELECTOR",
                    f"{kind}s can't be chosen by labels in a cluster; leave --selector out",
                )
            labels = f"{values.KIND_LABEL}={objects.PLURALS[kind]}"
            return [objects.account(kind, item) for item in await self._all(SECRETS, namespace, labels=labels)]
        items = await self._all(objects.RESOURCES[kind], namespace, labels=selector)
        if not any(named((item.get("status") or {}).get("leaseRef")) for item in items):
            return [objects.account(kind, item) for item in items]
        held: dict[str, dict[str, str]] = {}
        for lease in await self._all(LEASES, namespace, labels=f"!{values.ENDED_LABEL}"):
            meta = lease["metadata"]
            held.setdefault(meta["namespace"], {})[meta["name"]] = named(lease["spec"].get("clientRef"))
        return [objects.account(kind, item, held.get(item["metadata"]["namespace"])) for item in items]

    async def update_account(
        self,
        account: Account,
        *,
        labels: Labels | None = None,
        enabled: bool | None = None,
        username: str | None = None,
    ) -> Account:
        kind, namespace, name = account.kind, account.namespace, account.name
        if kind in (Kind.ADMIN, Kind.ROUTER):
            return await self._update_secret(account, labels, enabled)
        patch: Object = {"metadata": {"resourceVersion": account.version}, "spec": {}}
        if labels is not None:
            patch["metadata"]["labels"] = {**dict.fromkeys(account.labels), **labels}
        if username is not None:
            patch["spec"]["username"] = username or None
        if enabled is not None and kind is Kind.EXPORTER:
            patch["spec"]["enabled"] = enabled
        elif enabled is not None:
            if not enabled:
                await self._check_disabling(namespace, name)
            patch["metadata"]["annotations"] = {values.ENABLED: None if enabled else "false"}
        with told(kind, name, namespace):
            changed = await self._cluster.patch(objects.RESOURCES[kind], name, patch, namespace=namespace)
        return objects.account(kind, changed)

    async def _check_disabling(self, namespace: str, name: str) -> None:
        """Refuse to disable a client where that would have no effect: it looks safer than it is."""
        item = await self._object(Kind.CLIENT, namespace, name)
        if not annotation(item, values.CREDENTIAL):
            raise refusal(
                "FAILED_PRECONDITION",
                "NOT_SUPPORTED",
                f"client {name!r} can't be disabled: the controller of namespace {namespace!r} does not know disabled "
                "clients, or has not given this one a token yet",
                f"To shut it out there: jmp admin delete client {name}",
            )

    async def _update_secret(self, account: Account, labels: Labels | None, enabled: bool | None) -> Account:
        item = await self._object(account.kind, account.namespace, account.name)
        record = objects.secret_record(item)
        if labels is not None:
            record["meta"]["labels"] = dict(labels)
        if enabled is not None:
            record["enabled"] = enabled
        patch = {"metadata": {"resourceVersion": account.version}, "data": objects.secret_data(record)}
        with told(account.kind, account.name, account.namespace):
            changed = await self._cluster.patch(
                SECRETS, objects.object_name(account.kind, account.name), patch, namespace=account.namespace
            )
        return objects.account(account.kind, changed)

    async def delete_account(self, kind: Kind, namespace: str, name: str) -> None:
        check_namespace(namespace)
        check_name(name, f"{kind.value}s")
        with told(kind, name, namespace):
            await self._cluster.delete(
                objects.RESOURCES[kind],
                objects.object_name(kind, name),
                namespace=namespace,
                propagation="Background",
            )

    # -- credentials -------------------------------------------------------------------------------

    async def credentials(self, kind: Kind, namespace: str, name: str) -> Credentials:
        _refuse_tokens(kind, "import")
        renewed = await self._ask_for_token(kind, await self._object(kind, namespace, name))
        found = await self._wait_for_token(kind, namespace, name)
        if found is None:
            raise _no_credential(kind, namespace, name)
        return replace(found, renewed=renewed)

    async def _ask_for_token(self, kind: Kind, item: Object) -> bool:
        """Have the controller make a token for an account whose owner brought one along; return whether that is so."""
        meta = item["metadata"]
        if not annotation(item, values.MIGRATED_TOKEN) or named((item.get("status") or {}).get("credential")):
            return False
        with told(kind, meta["name"], meta["namespace"]):
            await self._cluster.patch(
                objects.RESOURCES[kind],
                meta["name"],
                {"metadata": {"annotations": {values.MIGRATED_TOKEN: None}}},
                namespace=meta["namespace"],
            )
        return True

    async def rotate_account(
        self, kind: Kind, namespace: str, name: str, *, token_life: timedelta | None = None, revoke_now: bool = False
    ) -> Credentials:
        _refuse_tokens(kind, "rotate")
        _refuse_life(token_life)
        item = await self._object(kind, namespace, name)
        secret = named((item.get("status") or {}).get("credential"))
        former = await self._token(secret, namespace) if secret else ""
        if revoke_now:
            await self._revoke(kind, item)
        elif await self._ask_for_token(kind, item):
            former = ""
        elif secret:
            # The way of published releases: the controller makes another one.
            try:
                await self._cluster.delete(SECRETS, secret, namespace=namespace)
            except NotFound:
                # Somebody else has asked for another one already.
                former = ""
        found = await self._wait_for_token(kind, namespace, name, other_than=former)
        if found is None:
            raise _no_credential(kind, namespace, name)
        return found

    async def _revoke(self, kind: Kind, item: Object) -> None:
        """Have the controller forget the token, so that it makes another one and refuses this one at once."""
        meta = item["metadata"]
        if not annotation(item, values.CREDENTIAL):
            raise refusal(
                "FAILED_PRECONDITION",
                "NOT_SUPPORTED",
                f"the controller of namespace {meta['namespace']!r} does not revoke tokens: those of {kind} "
                f"{meta['name']!r} are accepted until they expire",
                "Leave --revoke-now out to get a new token. To shut the former one out: jmp admin delete "
                f"{kind} {meta['name']}, and create it again",
            )
        with told(kind, meta["name"], meta["namespace"]):
            await self._cluster.patch(
                objects.RESOURCES[kind],
                meta["name"],
                {"metadata": {"annotations": {values.CREDENTIAL: None}}},
                namespace=meta["namespace"],
            )

    async def _wait_for_token(
        self, kind: Kind, namespace: str, name: str, *, other_than: str = ""
    ) -> Credentials | None:
        """Return what acts as an account as soon as a controller has made it; None when none did in time."""
        with anyio.move_on_after(CREDENTIAL_SECONDS):
            while True:
                item = await self._object(kind, namespace, name)
                status = item.get("status") or {}
                secret = named(status.get("credential"))
                token = await self._token(secret, namespace) if secret and status.get("endpoint") else ""
                if token and token != other_than:
                    return await self._credentials(kind, item, token)
                await anyio.sleep(LOOK)
        return None

    async def _token(self, secret: str, namespace: str) -> str:
        """Return the token in a Secret; empty when there is none at present."""
        try:
            item = await self._cluster.get(SECRETS, secret, namespace=namespace)
        except NotFound:
            return ""
        encoded = (item.get("data") or {}).get(values.TOKEN_KEY) or ""
        return base64.b64decode(encoded).decode()

    async def _credentials(self, kind: Kind, item: Object, token: str) -> Credentials:
        from jumpstarter_cli_common.oidc import get_token_expiry

        account = objects.account(kind, item)
        try:
            expiry = get_token_expiry(token)
        except ValueError:
            expiry = None
        return Credentials(
            account=account,
            endpoint=account.endpoint,
            ca=await self._ca(account.namespace),
            token=token,
            expires=datetime.fromtimestamp(expiry, UTC) if expiry is not None else account.token_expires,
        )

    async def _ca(self, namespace: str) -> str:
        try:
            found = await self._cluster.get(CONFIG_MAPS, values.CA_CONFIG_MAP, namespace=namespace)
        except NotFound:
            return ""
        return str((found.get("data") or {}).get(values.CA_KEY) or "")

    # -- policies --------------------------------------------------------------------------------

    async def put_policy(self, policy: Policy, *, create: bool) -> Policy:
        check_namespace(policy.namespace)
        check_name(policy.name, "policies")
        body = objects.policy_object(policy)
        with told("policy", policy.name, policy.namespace):
            if create:
                return objects.policy(await self._cluster.create(POLICIES, body))
            present = await self._cluster.get(POLICIES, policy.name, namespace=policy.namespace)
            body["metadata"] = {**present["metadata"], "resourceVersion": policy.version or _version(present)}
            annotations = dict(present["metadata"].get("annotations") or {})
            annotations.pop(values.TERMS, None)
            body["metadata"]["annotations"] = annotations | objects.policy_object(policy)["metadata"]["annotations"]
            return objects.policy(await self._cluster.replace(POLICIES, body))

    async def get_policy(self, namespace: str, name: str) -> Policy:
        check_namespace(namespace)
        check_name(name, "policies")
        with told("policy", name, namespace):
            return objects.policy(await self._cluster.get(POLICIES, name, namespace=namespace))

    async def list_policies(self, namespace: str) -> Sequence[Policy]:
        return [objects.policy(item) for item in await self._all(POLICIES, namespace)]

    async def delete_policy(self, namespace: str, name: str) -> None:
        check_namespace(namespace)
        check_name(name, "policies")
        with told("policy", name, namespace):
            await self._cluster.delete(POLICIES, name, namespace=namespace)

    # -- leases, audit, routers ------------------------------------------------------------------

    async def _lease(self, namespace: str, name: str) -> Object:
        check_namespace(namespace)
        check_name(name, "leases")
        with told("lease", name, namespace):
            return await self._cluster.get(LEASES, name, namespace=namespace)

    async def get_lease(self, namespace: str, name: str) -> LeaseState:
        return objects.lease(await self._lease(namespace, name))

    async def list_leases(
        self, namespace: str, *, only_active: bool, client: str = "", exporter: str = ""
    ) -> Sequence[LeaseState]:
        items = await self._all(LEASES, namespace, labels=f"!{values.ENDED_LABEL}" if only_active else "")
        leases = [objects.lease(item) for item in items]
        return [
            lease
            for lease in leases
            if (not client or lease.client == client)
            and (not exporter or lease.exporter == exporter)
            and not (only_active and lease.ended)
        ]

    async def end_lease(self, namespace: str, name: str, reason: str) -> None:
        if objects.lease(await self._lease(namespace, name)).ended:
            raise refusal("FAILED_PRECONDITION", "LEASE_ENDED", f"lease {name!r} has ended already")
        patch: Object = {"spec": {"release": True}}
        if reason:
            patch["metadata"] = {"annotations": {RELEASE_REASON: reason}}
        with told("lease", name, namespace):
            await self._cluster.patch(LEASES, name, patch, namespace=namespace)
        with anyio.move_on_after(END_SECONDS):
            while True:
                if objects.lease(await self._lease(namespace, name)).ended:
                    return
                await anyio.sleep(LOOK)
        raise refusal(
            "DEADLINE_EXCEEDED",
            "NOT_ENDED",
            f"the end of lease {name!r} in namespace {namespace!r} was asked for, but it has not come within "
            f"{END_SECONDS:g} s: no controller of Jumpstarter seems to work there",
            "The lease ends as soon as one does.",
        )

    async def audit(self, namespace: str, query: AuditQuery, *, newest_first: bool) -> AsyncIterator[AuditEntry]:
        try:
            from jumpstarter_controller.store.kubernetes.audit import Audit
        except ImportError:
            raise refusal(
                "FAILED_PRECONDITION",
                "MISSING_PACKAGE",
                "reading the audit record of a cluster needs jumpstarter-controller, which is not installed",
                "Install it: pip install 'jumpstarter-cli-admin[lab]'",
            ) from None

        def wanted(entry: Any) -> bool:
            asked = {
                "namespace": "" if namespace == ALL_NAMESPACES else namespace,
                "client": query.client,
                "exporter": query.exporter,
                "lease": query.lease,
            }
            if any(value and getattr(entry, field) != value for field, value in asked.items()):
                return False
            action = query.action
            return not action or entry.action == action or (action.endswith(".") and entry.action.startswith(action))

        record = Audit(self._cluster, lambda: datetime.now(UTC))
        after = 0
        while True:
            page = await record.read(
                since=query.since,
                until=query.until,
                limit=AUDIT_PAGE,
                after=after,
                newest_first=newest_first,
                wanted=wanted,
            )
            for entry in page:
                yield AuditEntry(
                    **{name: getattr(entry, name) for name in AuditEntry.__dataclass_fields__ if name != "details"},
                    details={key: str(value) for key, value in entry.details.items()},
                )
            if len(page) < AUDIT_PAGE:
                return
            after = page[-1].id

    async def list_routers(self) -> Sequence[Router]:
        namespace = self._cluster.namespace
        found = {router.name: router for router in await self._configured_routers(namespace)}
        for account in await self.list_accounts(Kind.ROUTER, namespace):
            found.setdefault(account.name, Router(name=account.name, labels=account.labels, online=None))
        return [router for _, router in sorted(found.items())]

    async def _configured_routers(self, namespace: str) -> list[Router]:
        import yaml

        try:
            item = await self._cluster.get(CONFIG_MAPS, CONTROLLER_CONFIG, namespace=namespace)
        except (NotFound, Forbidden):
            return []
        try:
            routers = yaml.safe_load((item.get("data") or {}).get("router") or "{}")
        except yaml.YAMLError as error:
            raise refusal(
                "FAILED_PRECONDITION",
                "CONFIG_INVALID",
                f"the key 'router' of ConfigMap {CONTROLLER_CONFIG!r} in namespace {namespace!r} is no YAML: {error}",
            ) from None
        if not isinstance(routers, Mapping):
            return []
        return [
            Router(
                name=str(name),
                endpoint=str((each or {}).get("endpoint") or ""),
                labels=dict((each or {}).get("labels") or {}),
                online=None,
            )
            for name, each in routers.items()
        ]


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])


def _no_credential(kind: Kind, namespace: str, name: str) -> Exception:
    return refusal(
        "DEADLINE_EXCEEDED",
        "NO_CREDENTIAL",
        f"{kind} {name!r} in namespace {namespace!r} got no credential within {CREDENTIAL_SECONDS:g} s: no controller "
        "of Jumpstarter seems to work there",
        "Start one, then repeat this.",
    )


def _refuse_tokens(kind: Kind, what: str) -> None:
    if kind in (Kind.CLIENT, Kind.EXPORTER):
        return
    why = {
        Kind.ADMIN: "who may administer a lab in a cluster is said by the rights of the cluster itself (RBAC)",
        Kind.ROUTER: "a router's token is given to whoever asks the controller for it, and kept nowhere",
    }[kind]
    raise refusal(
        "FAILED_PRECONDITION",
        "NOT_SUPPORTED",
        f"can't {what} the token of {kind}s through the cluster: {why}",
        f"Ask the controller itself, with an admin config: jmp admin {what} {kind} NAME --admin ALIAS",
    )


def _refuse_life(token_life: timedelta | None) -> None:
    if token_life is not None:
        raise refusal(
            "FAILED_PRECONDITION",
            "NOT_SUPPORTED",
            "in a cluster the controller decides how long tokens are valid",
            "Leave --token-life out; the controller's config says it for all.",
        )
