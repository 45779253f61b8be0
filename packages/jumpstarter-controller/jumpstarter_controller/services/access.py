"""Who may call which rpc: the one table that all services are served by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import Code
from ..model.records import Key, Kind
from .errors import Said


@dataclass(frozen=True)
class Access:
    """What the caller of an rpc has to be, and which name in the request has to be of its namespace."""

    kinds: tuple[Kind, ...]
    field: str = ""
    """Path of the name in the request; empty for rpcs that are about the caller itself."""
    collection: Kind | None = None
    """What the name is of; None for a namespace."""
    published: bool = False
    """Peers of 0.9 call it, so refusals are said in their words."""
    rights: str = ""
    """What the handler or the lab checks besides, for the reader of this table."""


def _client(field: str, collection: Kind | None = None, rights: str = "") -> Access:
    return Access((Kind.CLIENT,), field, collection, rights=rights)


def _published(field: str, collection: Kind | None = None, rights: str = "") -> Access:
    return Access((Kind.CLIENT,), field, collection, published=True, rights=rights)


_EXPORTER = Access((Kind.EXPORTER,), published=True)
_ADMIN = Access((Kind.ADMIN,), rights="an admin may do everything in all namespaces")

_CONTROLLER: Mapping[str, Access] = {
    "Register": _EXPORTER,
    "Unregister": _EXPORTER,
    "ReportStatus": _EXPORTER,
    "Status": _EXPORTER,
    "Listen": Access((Kind.EXPORTER,), published=True, rights="the lease has the exporter"),
    "AuditStream": _EXPORTER,
    "Dial": Access((Kind.CLIENT,), published=True, rights="owner, driver or watcher of the lease"),
    "GetLease": Access((Kind.CLIENT,), published=True, rights="owner of the lease"),
    "RequestLease": Access((Kind.CLIENT,), published=True, rights="access policies"),
    "ReleaseLease": Access(
        (Kind.CLIENT, Kind.EXPORTER), published=True, rights="owner of the lease, or the exporter that it has"
    ),
    "ListLeases": Access((Kind.CLIENT,), published=True, rights="lists the leases of the caller alone"),
}

_CLIENT: Mapping[str, Access] = {
    "GetExporter": _published("name", Kind.EXPORTER),
    "ListExporters": _published("parent"),
    "GetLease": _published("name", Kind.LEASE),
    "ListLeases": _published("parent"),
    "CreateLease": _published("parent", rights="access policies"),
    "UpdateLease": _published("lease.name", Kind.LEASE, "owner of the lease; access policies"),
    "DeleteLease": _published("name", Kind.LEASE, "owner of the lease"),
    "RotateToken": _published("parent", rights="rotates the token of the caller alone"),
}

_LAB: Mapping[str, Access] = {
    "WatchLease": _client("name", Kind.LEASE),
    "WatchLeases": _client("parent"),
    "WatchExporters": _client("parent"),
    "ListLeaseStates": _client("parent"),
    "ListExporterStates": _client("parent"),
    "ShareLease": _client("name", Kind.LEASE, "owner of the lease"),
    "ReportUse": Access((Kind.EXPORTER,), rights="the lease has, or had, the exporter"),
    "Drain": Access((Kind.EXPORTER,)),
    "ServeRouter": Access((Kind.ROUTER,)),
    "CertifyRouter": Access((Kind.ROUTER,), rights="any host but those of the controller"),
}

_ADMINISTRATION: Mapping[str, Access] = dict.fromkeys(
    (
        "GetServer",
        "CreateAccount",
        "GetAccount",
        "ListAccounts",
        "UpdateAccount",
        "DeleteAccount",
        "RotateAccount",
        "CreatePolicy",
        "GetPolicy",
        "ListPolicies",
        "UpdatePolicy",
        "DeletePolicy",
        "ListLeases",
        "EndLease",
        "ListAudit",
        "ListRouters",
    ),
    _ADMIN,
)

ACCESS: Mapping[str, Access] = {
    f"/{service}/{rpc}": access
    for service, rpcs in (
        ("jumpstarter.v1.ControllerService", _CONTROLLER),
        ("jumpstarter.client.v1.ClientService", _CLIENT),
        ("jumpstarter.lab.v1.LabService", _LAB),
        ("jumpstarter.admin.v1.AdminService", _ADMINISTRATION),
    )
    for rpc, access in rpcs.items()
}
"""Full method name to what its caller has to be. What is not listed here is not served."""


def parse_namespace(identifier: str) -> str:
    """Return the namespace of `namespaces/{namespace}`.

    Raises:
        Refused: it is something else.
    """
    parts = identifier.split("/")
    if len(parts) != 2 or parts[0] != "namespaces" or not parts[1]:
        raise _unfit(identifier, "namespaces/{namespace}")
    return parts[1]


def parse_key(identifier: str, kind: Kind) -> Key:
    """Return the key that `namespaces/{namespace}/{kind}/{name}` names.

    Raises:
        Refused: it is something else.
    """
    parts = identifier.split("/")
    if len(parts) != 4 or parts[0] != "namespaces" or parts[2] != kind or not parts[1] or not parts[3]:
        raise _unfit(identifier, f"namespaces/{{namespace}}/{kind}/{{name}}")
    return Key(kind, parts[1], parts[3])


def _unfit(identifier: str, expected: str) -> Said:
    found = repr(identifier[:300]) if identifier else "nothing"
    return Said(Code.INVALID_ARGUMENT, "INVALID_NAME", f"invalid identifier: expected {expected}, found {found}")


def check_namespace(namespace: str, own: Key) -> None:
    """Refuse names of other namespaces than the caller's.

    Raises:
        Refused: it is another one.
    """
    if namespace != own.namespace:
        raise Said(
            Code.PERMISSION_DENIED,
            "NAMESPACE_MISMATCH",
            f"namespace mismatch: {own.kind[:-1]} {own.name!r} is of the namespace {own.namespace!r}, "
            f"and asked for something of {namespace[:300]!r}",
            {"namespace": own.namespace},
        )
