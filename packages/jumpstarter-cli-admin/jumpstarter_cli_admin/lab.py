"""Administration of a lab through its `jumpstarter.admin.v1.AdminService`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jumpstarter.common.grpc import translate_grpc_exceptions
from jumpstarter.config.serving import controller_channel
from jumpstarter_protocol import admin_pb2, admin_pb2_grpc, kubernetes_pb2

from .records import (
    Account,
    AuditEntry,
    AuditQuery,
    Credentials,
    Device,
    Kind,
    Labels,
    Policy,
    Requirement,
    Router,
    Rule,
    Selector,
    Server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jumpstarter.client.states import LeaseState
    from jumpstarter.config.admin import AdminConfigV1Alpha1

TIMEOUT = 30.0
"""Seconds that the server may take to answer one call."""

PAGE = 500

_NEW_TOKEN = (
    "Another admin gives you a new token with `jmp admin rotate admin NAME --out FILE`, and so does `jmp controller "
    "reset-admin` on the machine of the server, while that is stopped."
)
ADVICE = {
    "ACCOUNT_UNKNOWN": "`jmp admin get` lists what there is; -A looks into all namespaces.",
    "ACCOUNT_DISABLED": "Another admin can enable it with `jmp admin enable admin NAME`.",
    "IDENTITY_MISMATCH": _NEW_TOKEN,
    "KIND_MISMATCH": "An admin config is needed, see `jmp admin config list`.",
    "LEASE_NOT_FOUND": "`jmp admin get leases` lists the leases, with -a also those that have ended.",
    "LEASE_ENDED": "`jmp admin get leases` lists those that have not.",
    "NOT_FOUND": "`jmp admin get` lists what there is; -A looks into all namespaces.",
    "POLICY_NOT_FOUND": "`jmp admin get policies` lists the policies, `jmp admin apply -f FILE` makes one.",
    "TOKEN_EXPIRED": _NEW_TOKEN,
    "TOKEN_INVALID": _NEW_TOKEN,
    "TOKEN_MALFORMED": _NEW_TOKEN,
    "TOKEN_MISSING": _NEW_TOKEN,
    "TOKEN_REPLACED": _NEW_TOKEN,
}
"""What an administrator can do about a refusal, by its reason."""

KINDS = {
    admin_pb2.KIND_CLIENT: Kind.CLIENT,
    admin_pb2.KIND_EXPORTER: Kind.EXPORTER,
    admin_pb2.KIND_ADMIN: Kind.ADMIN,
    admin_pb2.KIND_ROUTER: Kind.ROUTER,
}
NUMBERS: dict[Kind, Any] = {kind: number for number, kind in KINDS.items()}
LENGTHS = ("maximum_duration", "idle_timeout", "extend_by_use", "maximum_use")


@asynccontextmanager
async def open_lab(config: AdminConfigV1Alpha1) -> AsyncGenerator[LabBackend, None]:
    """Connect to the lab of an admin config."""
    async with await controller_channel("Admin", config) as channel:
        yield LabBackend(admin_pb2_grpc.AdminServiceStub(channel), config.endpoint)


@contextmanager
def _translated() -> Iterator[None]:
    from jumpstarter.common.exceptions import ConnectionError as CallError

    try:
        with translate_grpc_exceptions():
            yield
    except CallError as error:
        if error.status == "UNIMPLEMENTED":
            error.message = "the server at this endpoint has no administration; it is no lab of `jmp controller run`"
        elif error.reason in ADVICE:
            error.hint = ADVICE[error.reason]
        raise


@dataclass(frozen=True)
class LabBackend:
    """An open connection to a lab."""

    stub: Any
    endpoint: str

    async def _call(self, method: str, request: Any) -> Any:
        with _translated():
            return await getattr(self.stub, method)(request, timeout=TIMEOUT)

    async def _pages(self, method: str, request: Any, items: str) -> list[Any]:
        found: list[Any] = []
        request.page_size = PAGE
        while True:
            answer = await self._call(method, request)
            found += getattr(answer, items)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def server(self) -> Server:
        from google.protobuf.empty_pb2 import Empty

        answer = await self._call("GetServer", Empty())
        return Server(
            version=answer.version,
            namespace=answer.namespace,
            admin=answer.admin,
            endpoint=answer.endpoint,
            ca=answer.ca,
        )

    # -- accounts --------------------------------------------------------------------------------

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
        request = admin_pb2.CreateAccountRequest(
            kind=NUMBERS[kind], parent=f"namespaces/{namespace}", id=name, labels=dict(labels), username=username
        )
        _set_length(request, "token_life", token_life)
        return _credentials(await self._call("CreateAccount", request))

    async def get_account(self, kind: Kind, namespace: str, name: str) -> Account:
        return self._account(await self._call("GetAccount", admin_pb2.NameRequest(name=_name(kind, namespace, name))))

    async def list_accounts(
        self, kind: Kind, namespace: str, *, selector: str = "", devices: bool = False
    ) -> Sequence[Account]:
        request = admin_pb2.ListAccountsRequest(
            kind=NUMBERS[kind], parent=f"namespaces/{namespace}", filter=selector, with_devices=devices
        )
        return [self._account(each) for each in await self._pages("ListAccounts", request, "accounts")]

    async def update_account(
        self,
        account: Account,
        *,
        labels: Labels | None = None,
        enabled: bool | None = None,
        username: str | None = None,
    ) -> Account:
        wanted = admin_pb2.Account(
            name=_name(account.kind, account.namespace, account.name),
            version=account.version,
            labels=dict(labels or {}),
        )
        wanted.enabled, wanted.username = bool(enabled), username or ""
        request = admin_pb2.UpdateAccountRequest(account=wanted)
        given = {"labels": labels, "enabled": enabled, "username": username}
        request.update_mask.paths.extend(name for name, value in given.items() if value is not None)
        return self._account(await self._call("UpdateAccount", request))

    async def delete_account(self, kind: Kind, namespace: str, name: str) -> None:
        await self._call("DeleteAccount", admin_pb2.NameRequest(name=_name(kind, namespace, name)))

    async def rotate_account(
        self, kind: Kind, namespace: str, name: str, *, token_life: timedelta | None = None, revoke_now: bool = False
    ) -> Credentials:
        request = admin_pb2.RotateAccountRequest(name=_name(kind, namespace, name), revoke_now=revoke_now)
        _set_length(request, "token_life", token_life)
        return _credentials(await self._call("RotateAccount", request))

    async def credentials(self, kind: Kind, namespace: str, name: str) -> Credentials:
        return replace(await self.rotate_account(kind, namespace, name), renewed=True)

    def _account(self, message: Any) -> Account:
        return _account(message, self.endpoint)

    # -- policies --------------------------------------------------------------------------------

    async def put_policy(self, policy: Policy, *, create: bool) -> Policy:
        request = admin_pb2.PutPolicyRequest(policy=_policy_message(policy))
        return _policy(await self._call("CreatePolicy" if create else "UpdatePolicy", request))

    async def get_policy(self, namespace: str, name: str) -> Policy:
        return _policy(await self._call("GetPolicy", _policy_request(namespace, name)))

    async def list_policies(self, namespace: str) -> Sequence[Policy]:
        request = admin_pb2.ListRequest(parent=f"namespaces/{namespace}")
        return [_policy(each) for each in await self._pages("ListPolicies", request, "policies")]

    async def delete_policy(self, namespace: str, name: str) -> None:
        await self._call("DeletePolicy", _policy_request(namespace, name))

    # -- leases, audit, routers ------------------------------------------------------------------

    async def get_lease(self, namespace: str, name: str) -> LeaseState:
        from jumpstarter.common.exceptions import ConnectionError as CallError

        request = admin_pb2.ListLeasesRequest(parent=f"namespaces/{namespace}", lease=name)
        answer = await self._call("ListLeases", request)
        if not answer.leases:
            missing = CallError(f"lease {namespace}/{name} not found")
            missing.status, missing.reason = "NOT_FOUND", "LEASE_NOT_FOUND"
            missing.hint = ADVICE["LEASE_NOT_FOUND"]
            raise missing
        return _lease(answer.leases[0])

    async def list_leases(
        self, namespace: str, *, only_active: bool, client: str = "", exporter: str = ""
    ) -> Sequence[LeaseState]:
        request = admin_pb2.ListLeasesRequest(
            parent=f"namespaces/{namespace}", only_active=only_active, client=client, exporter=exporter
        )
        return [_lease(each) for each in await self._pages("ListLeases", request, "leases")]

    async def end_lease(self, namespace: str, name: str, reason: str) -> None:
        request = admin_pb2.EndLeaseRequest(name=f"namespaces/{namespace}/leases/{name}", reason=reason)
        await self._call("EndLease", request)

    async def audit(self, namespace: str, query: AuditQuery, *, newest_first: bool) -> AsyncIterator[AuditEntry]:
        request = admin_pb2.ListAuditRequest(
            parent=f"namespaces/{namespace}",
            client=query.client,
            exporter=query.exporter,
            lease=query.lease,
            action=query.action,
            page_size=PAGE,
            newest_first=newest_first,
        )
        for name in ("since", "until"):
            if (moment := getattr(query, name)) is not None:
                getattr(request, name).FromDatetime(moment.astimezone(UTC))
        while True:
            answer = await self._call("ListAudit", request)
            for entry in answer.entries:
                yield _audit_entry(entry)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def list_routers(self) -> Sequence[Router]:
        from google.protobuf.empty_pb2 import Empty

        answer = await self._call("ListRouters", Empty())
        return [
            Router(
                name=each.name,
                endpoint=each.endpoint,
                labels=dict(each.labels),
                online=each.online,
                draining=each.draining,
                streams=each.streams,
                bytes_per_second=each.bytes_per_second,
                last_seen=_moment(each, "last_seen"),
            )
            for each in sorted(answer.routers, key=lambda router: str(router.name))
        ]


# -- messages ------------------------------------------------------------------------------------


def _name(kind: Kind, namespace: str, name: str) -> str:
    return f"namespaces/{namespace}/{kind}s/{name}"


def _policy_request(namespace: str, name: str) -> Any:
    return admin_pb2.NameRequest(name=f"namespaces/{namespace}/policies/{name}")


def _moment(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return found


def _set_length(message: Any, field: str, length: timedelta | None) -> None:
    if length is not None:
        getattr(message, field).FromTimedelta(length)


def _account(message: Any, endpoint: str) -> Account:
    from jumpstarter.common.enums import ExporterStatus

    _, namespace, _, name = message.name.split("/")
    exporter = message.exporter if message.HasField("exporter") else None
    known: dict[str, Any] = {}
    if exporter is not None:
        said = exporter.state.exporter
        status = ExporterStatus.from_proto(said.status).name
        known = {
            "status": "" if status == "UNSPECIFIED" else "".join(part.capitalize() for part in status.split("_")),
            "status_message": said.status_message,
            "online": exporter.online,
            "last_seen": _moment(exporter.state, "last_seen"),
            "lease": exporter.state.lease,
            "leased_by": exporter.state.client,
            "devices": [
                Device(
                    uuid=device.uuid,
                    parent_uuid=device.parent_uuid if device.HasField("parent_uuid") else None,
                    labels=dict(device.labels),
                )
                for device in exporter.device
            ],
            "device_count": exporter.devices,
        }
    return Account(
        kind=KINDS[message.kind],
        namespace=namespace,
        name=name,
        uid=message.uid,
        version=message.version,
        labels=dict(message.labels),
        username=message.username,
        enabled=message.enabled,
        created=_moment(message, "created"),
        token_expires=_moment(message, "token_expires"),
        endpoint=endpoint,
        **known,
    )


def _credentials(message: Any) -> Credentials:
    return Credentials(
        account=_account(message.account, message.endpoint),
        endpoint=message.endpoint,
        ca=message.ca,
        token=message.token,
        expires=_moment(message, "expires"),
    )


def _selector(message: Any) -> Selector:
    return Selector(
        labels=dict(message.match_labels),
        requirements=[
            Requirement(key=each.key, operator=each.operator, values=list(each.values))
            for each in message.match_expressions
        ],
    )


def _selector_message(selector: Selector) -> Any:
    return kubernetes_pb2.LabelSelector(
        match_labels=dict(selector.labels),
        match_expressions=[
            kubernetes_pb2.LabelSelectorRequirement(key=each.key, operator=each.operator, values=each.values)
            for each in selector.requirements
        ],
    )


def _policy(message: Any) -> Policy:
    _, namespace, _, name = message.name.split("/")
    return Policy(
        namespace=namespace,
        name=name,
        uid=message.uid,
        version=message.version,
        created=_moment(message, "created"),
        exporters=_selector(message.exporter_selector),
        rules=[
            Rule(
                description=rule.description,
                priority=rule.priority,
                clients=[_selector(selector) for selector in rule.clients],
                spot_access=rule.spot_access,
                maximum_leases=rule.maximum_leases,
                **{field: getattr(rule, field).ToTimedelta() for field in LENGTHS if rule.HasField(field)},
            )
            for rule in message.rules
        ],
    )


def _policy_message(policy: Policy) -> Any:
    message = admin_pb2.Policy(
        name=f"namespaces/{policy.namespace}/policies/{policy.name}",
        version=policy.version,
        exporter_selector=_selector_message(policy.exporters),
    )
    for rule in policy.rules:
        part = message.rules.add(
            description=rule.description,
            priority=rule.priority,
            clients=[_selector_message(selector) for selector in rule.clients],
            spot_access=rule.spot_access,
            maximum_leases=rule.maximum_leases,
        )
        for field in LENGTHS:
            _set_length(part, field, getattr(rule, field))
    return message


def _lease(message: Any) -> LeaseState:
    from jumpstarter.client.states import LeaseState

    return LeaseState.from_protobuf(message)


def _audit_entry(message: Any) -> AuditEntry:
    return AuditEntry(
        id=message.id,
        time=message.time.ToDatetime(tzinfo=UTC),
        namespace=message.namespace,
        actor_kind=message.actor_kind,
        actor=message.actor,
        action=message.action,
        peer=message.peer,
        client=message.client,
        exporter=message.exporter,
        lease=message.lease,
        details=dict(message.details),
    )
