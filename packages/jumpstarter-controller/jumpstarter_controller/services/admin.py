"""`jumpstarter.admin.v1.AdminService`: accounts, access policies, leases and the audit record for admins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from google.protobuf.empty_pb2 import Empty
from jumpstarter_protocol import admin_pb2

from ..errors import Code
from ..identity.issuing import issue_token
from ..identity.tokens import Tokens
from ..lab import Lab
from ..model.names import check_labels, check_name, check_namespace
from ..model.records import Account, Exporter, Key, Kind, Lease, Meta, Policy
from . import convert, convert_admin, paging
from .access import parse_key, parse_namespace
from .controller import StatusStreams
from .convert_admin import account_message, audit_message, kind_of, policy_message, policy_of
from .errors import Said
from .rpc import Call

Item = TypeVar("Item", Account | Exporter, Policy)

ALL_NAMESPACES = "-"

MOST_LEASES = 5000
"""Leases of a list without pages."""

AUDIT_PAGE = 100
LARGEST_AUDIT_PAGE = 1000


class ListsRouters(Protocol):
    """What knows the routers, see `router.pool.RouterPool`."""

    def describe(self) -> Iterable[admin_pb2.Router]: ...


@dataclass
class AdminService:
    """The rpcs of admins, who may do everything in all namespaces."""

    lab: Lab
    messages: convert.Messages
    statuses: StatusStreams
    tokens: Tokens
    routers: ListsRouters
    version: str
    endpoint: str
    """Where peers reach the controller, `host:port`."""
    ca: str
    """PEM, empty for the roots of the system."""

    async def GetServer(self, call: Call, request: Any) -> Any:
        return admin_pb2.Server(
            version=self.version,
            namespace=self.lab.settings.namespace,
            admin=str(call.caller),
            endpoint=self.endpoint,
            ca=self.ca,
        )

    # -- accounts --------------------------------------------------------------------------------

    def _message(self, account: Account | Exporter, *, devices: bool = True) -> admin_pb2.Account:
        state = None
        if isinstance(account, Exporter):
            view = self.lab.exporter_view(account)
            state = self.messages.exporter_state(view, self.lab.clock.now(), hidden=True)
        return account_message(account, state, devices=devices)

    def _credentials(self, account: Account | Exporter, token: str) -> admin_pb2.AccountCredentials:
        message = admin_pb2.AccountCredentials(
            account=self._message(account), endpoint=self.endpoint, ca=self.ca, token=token
        )
        if account.credential.expires is not None:
            message.expires.CopyFrom(convert.timestamp(account.credential.expires))
        return message

    def _account(self, name: str) -> Account | Exporter:
        key = _account_key(name)
        account = self.lab.account(key)
        if account is None:
            raise Said(Code.NOT_FOUND, "ACCOUNT_UNKNOWN", f"{key.kind[:-1]} {key.namespace}/{key.name} not found")
        return account

    async def CreateAccount(self, call: Call, request: Any) -> Any:
        kind, namespace = kind_of(request.kind), self._namespace(request.parent)
        check_name(request.id, kind[:-1])
        check_labels(request.labels, f"{kind[:-1]} {request.id}")
        life = convert_admin.positive_length(request, "token_life")
        meta = Meta(namespace=namespace, name=request.id, labels=dict(request.labels))
        record: Account | Exporter = (
            Exporter(meta=meta, username=request.username)
            if kind is Kind.EXPORTER
            else Account(kind=kind, meta=meta, username=request.username)
        )
        account = await self.lab.create_account(call.actor, record)
        token, account = await issue_token(self.lab, self.tokens, call.actor, account.key, life=life)
        return self._credentials(account, token)

    async def GetAccount(self, call: Call, request: Any) -> Any:
        return self._message(self._account(request.name))

    async def ListAccounts(self, call: Call, request: Any) -> Any:
        selector = convert.selector_of(request.filter, "filter")
        found = self.lab.accounts(kind_of(request.kind), self._namespaces(request.parent), selector)
        items, token = _page(found, request)
        accounts = [self._message(item, devices=request.with_devices) for item in items]
        return admin_pb2.ListAccountsResponse(accounts=accounts, next_page_token=token)

    async def UpdateAccount(self, call: Call, request: Any) -> Any:
        wanted, account = request.account, self._account(request.account.name)
        if wanted.version and wanted.version != account.meta.version:
            raise Said(
                Code.ABORTED,
                "CHANGED_MEANWHILE",
                f"{wanted.name} was changed by somebody else meanwhile; look at it again, and repeat your change",
            )
        changes: dict[str, Any] = {}
        for path in request.update_mask.paths:
            if path == "labels":
                check_labels(wanted.labels, wanted.name)
                changes["meta"] = replace(account.meta, labels=dict(wanted.labels))
            elif path in ("enabled", "username"):
                changes[path] = getattr(wanted, path)
            else:
                raise Said(
                    Code.INVALID_ARGUMENT,
                    "INVALID_MASK",
                    f"{path[:100]!r} of an account can't be changed; labels, enabled and username can",
                )
        if not changes:
            raise Said(Code.INVALID_ARGUMENT, "INVALID_MASK", "update_mask names nothing to change")
        return self._message(await self.lab.update_account(call.actor, replace(account, **changes)))

    async def DeleteAccount(self, call: Call, request: Any) -> Any:
        account = self._account(request.name)
        if account.key == call.caller:
            raise Said(
                Code.FAILED_PRECONDITION,
                "OWN_ACCOUNT",
                f"{request.name} is your own account; have another admin delete it",
            )
        await self.lab.delete_account(call.actor, account.key)
        return Empty()

    async def RotateAccount(self, call: Call, request: Any) -> Any:
        token, account = await issue_token(
            self.lab,
            self.tokens,
            call.actor,
            self._account(request.name).key,
            life=convert_admin.positive_length(request, "token_life"),
            grace=timedelta(0) if request.revoke_now else None,
        )
        return self._credentials(account, token)

    # -- policies --------------------------------------------------------------------------------

    def _policy(self, name: str) -> Policy:
        key = parse_key(name, Kind.POLICY)
        for policy in self.lab.policies(key.namespace):
            if policy.key == key:
                return policy
        raise Said(Code.NOT_FOUND, "POLICY_NOT_FOUND", f"policy {key.namespace}/{key.name} not found")

    async def CreatePolicy(self, call: Call, request: Any) -> Any:
        key = parse_key(request.policy.name, Kind.POLICY)
        check_namespace(key.namespace)
        check_name(key.name, "a policy")
        policy = policy_of(request.policy, Meta(namespace=key.namespace, name=key.name))
        return policy_message(await self.lab.put_policy(call.actor, policy, create=True))

    async def GetPolicy(self, call: Call, request: Any) -> Any:
        return policy_message(self._policy(request.name))

    async def ListPolicies(self, call: Call, request: Any) -> Any:
        items, token = _page(self.lab.policies(self._namespaces(request.parent)), request)
        return admin_pb2.ListPoliciesResponse(policies=[policy_message(item) for item in items], next_page_token=token)

    async def UpdatePolicy(self, call: Call, request: Any) -> Any:
        present = self._policy(request.policy.name)
        if request.policy.version and request.policy.version != present.meta.version:
            raise Said(
                Code.ABORTED,
                "CHANGED_MEANWHILE",
                f"{request.policy.name} was changed by somebody else meanwhile; look at it again, and repeat yours",
            )
        policy = policy_of(request.policy, present.meta)
        return policy_message(await self.lab.put_policy(call.actor, policy, create=False))

    async def DeletePolicy(self, call: Call, request: Any) -> Any:
        await self.lab.delete_policy(call.actor, self._policy(request.name).key)
        return Empty()

    # -- leases ----------------------------------------------------------------------------------

    async def ListLeases(self, call: Call, request: Any) -> Any:
        size, after = paging.page_size(request.page_size), paging.after(request.page_token)
        namespace = self._namespace(request.parent)
        if request.lease:
            lease = await self.lab.lease(Key(Kind.LEASE, namespace, request.lease))
            return admin_pb2.ListLeasesResponse(leases=self._lease_states([] if lease is None else [lease]))
        found: list[Lease] = []
        while True:
            # Filtered here, so a page may take several looks.
            batch = await self.lab.leases(
                namespace,
                only_active=not request.HasField("only_active") or request.only_active,
                limit=(size or MOST_LEASES) + 1,
                after=after,
            )
            found += [lease for lease in batch if _matches(lease, request)]
            if len(batch) <= (size or MOST_LEASES) or (size and len(found) > size):
                break
            after = batch[-1].meta.name
        token = ""
        if size and len(found) > size:
            found = found[:size]
            token = paging.token_after(found[-1].meta.name)
        return admin_pb2.ListLeasesResponse(leases=self._lease_states(found), next_page_token=token)

    def _lease_states(self, leases: Sequence[Lease]) -> list[Any]:
        now = self.lab.clock.now()
        return [self.messages.lease_state(self.lab.view(lease), "", now) for lease in leases]

    async def EndLease(self, call: Call, request: Any) -> Any:
        key = parse_key(request.name, Kind.LEASE)
        if self.lab.active_lease(key) is None:
            known = await self.lab.lease(key)
            raise (
                Said(Code.FAILED_PRECONDITION, "LEASE_ENDED", f"lease {request.name} has ended already")
                if known is not None
                else Said(Code.NOT_FOUND, "LEASE_NOT_FOUND", f"lease {request.name} not found")
            )
        await self.statuses.told_end(await self.lab.release_lease(call.actor, key, request.reason[:1024]))
        return Empty()

    # -- audit, routers --------------------------------------------------------------------------

    async def ListAudit(self, call: Call, request: Any) -> Any:
        size = min(paging.page_size(request.page_size) or AUDIT_PAGE, LARGEST_AUDIT_PAGE)
        position = paging.after(request.page_token)
        if position and not position.isdecimal():
            raise Said(Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", "invalid page_token: it belongs to another list")
        entries = await self.lab.read_audit(
            namespace=self._namespaces(request.parent),
            since=convert.moment_of(request, "since"),
            until=convert.moment_of(request, "until"),
            client=request.client,
            exporter=request.exporter,
            lease=request.lease,
            action=request.action,
            limit=size + 1,
            after=int(position or 0),
            newest_first=request.newest_first,
        )
        more = len(entries) > size
        return admin_pb2.ListAuditResponse(
            entries=[audit_message(entry) for entry in entries[:size]],
            next_page_token=paging.token_after(str(entries[size - 1].id)) if more else "",
        )

    async def ListRouters(self, call: Call, request: Any) -> Any:
        routers = list(self.routers.describe())
        known = {router.name for router in routers}
        away = [
            admin_pb2.Router(name=account.meta.name, labels=dict(account.meta.labels))
            for account in self.lab.accounts(Kind.ROUTER)
            if account.meta.name not in known
        ]
        return admin_pb2.ListRoutersResponse(routers=[*routers, *away])

    # -- names -----------------------------------------------------------------------------------

    def _namespace(self, parent: str) -> str:
        """Return the namespace of a request; the one of the settings when it names none."""
        namespace = parse_namespace(parent) if parent else self.lab.settings.namespace
        check_namespace(namespace)
        return namespace

    def _namespaces(self, parent: str) -> str:
        """Return the namespace of a request for a list, empty for all of them."""
        return "" if parent == f"namespaces/{ALL_NAMESPACES}" else self._namespace(parent)


def _account_key(name: str) -> Key:
    parts = name.split("/")
    for kind in convert_admin.KINDS.values():
        if len(parts) == 4 and parts[2] == kind:
            return parse_key(name, kind)
    raise Said(
        Code.INVALID_ARGUMENT,
        "INVALID_NAME",
        "invalid identifier: expected namespaces/{namespace}/{clients|exporters|admins|routers}/{name}, found "
        f"{name[:300]!r}",
    )


def _matches(lease: Lease, request: Any) -> bool:
    return request.client in ("", lease.client) and request.exporter in ("", lease.exporter)


def _page(found: Sequence[Item], request: Any) -> tuple[Sequence[Item], str]:
    """Return the items of a page and the token of the next one; the order is that of namespace and name."""
    size, after = paging.page_size(request.page_size), paging.after(request.page_token)
    items = sorted(found, key=_place)
    if after:
        items = [item for item in items if _place(item) > tuple(after.split("/", 1))]
    if not size or len(items) <= size:
        return items, ""
    return items[:size], paging.token_after("/".join(_place(items[size - 1])))


def _place(item: Account | Exporter | Policy) -> tuple[str, str]:
    return item.meta.namespace, item.meta.name
