"""Custom resources as the records of administrators, and back.

The annotations are those of `jumpstarter_kubernetes.values`, in which our controller keeps what the kinds have no
fields for; without them, as published controllers leave them out, records say what the fields say.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter_kubernetes import values
from jumpstarter_kubernetes.resources import CLIENTS, EXPORTERS, SECRETS, Resource
from jumpstarter_kubernetes.values import Object, annotation, named, to_length, to_time

from ..records import Account, Device, Kind, Labels, Policy, Requirement, Rule, Selector

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

RESOURCES: Mapping[Kind, Resource] = {
    Kind.CLIENT: CLIENTS,
    Kind.EXPORTER: EXPORTERS,
    Kind.ADMIN: SECRETS,
    Kind.ROUTER: SECRETS,
}

PLURALS: Mapping[Kind, str] = {kind: f"{kind.value}s" for kind in Kind}
"""What the label of Secrets that hold accounts says."""

RECORD = "record"
"""Key of a Secret with the account that it holds; JSON."""

_TERMS = {"idleTimeout": "idle_timeout", "extendByUse": "extend_by_use", "maximumUse": "maximum_use"}


class Unreadable(JumpstarterException):
    """An object is not as its kind should be."""


def object_name(kind: Kind, name: str) -> str:
    """Return the name that the object of an account has."""
    return values.ACCOUNT_SECRETS.get(PLURALS[kind], "") + name


def _moment(value: Any) -> datetime | None:
    return to_time(value) if value else None


def _length(value: Any) -> timedelta | None:
    return to_length(value) if value else None


def _unreadable(item: Object, error: Exception) -> Unreadable:
    meta = item.get("metadata") or {}
    return Unreadable(
        f"{item.get('kind')} {meta.get('name')!r} in namespace {meta.get('namespace')!r} is not as it should be: "
        f"{error!r}. Look at it with: kubectl get -o yaml"
    )


# -- accounts --------------------------------------------------------------------------------------


def account(kind: Kind, item: Object, holders: Mapping[str, str] | None = None) -> Account:
    """Return the account of an object.

    Args:
        holders: clients by the names of their leases.

    Raises:
        Unreadable: the object is none.
    """
    try:
        if kind in (Kind.ADMIN, Kind.ROUTER):
            return _secret_account(kind, item)
        return _account(kind, item, holders or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(item, error) from error


def _account(kind: Kind, item: Object, holders: Mapping[str, str]) -> Account:
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    known: dict[str, Any] = {"enabled": annotation(item, values.ENABLED) != "false"}
    if kind is Kind.EXPORTER:
        known = {"enabled": spec.get("enabled", True), **_exporter(status, holders)}
    return Account(
        kind=kind,
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        labels=dict(meta.get("labels") or {}),
        username=spec.get("username") or "",
        created=to_time(annotation(item, values.CREATED) or meta["creationTimestamp"]),
        token_expires=_moment(status.get("tokenExpiresAt") or _credential(item).get("expires")),
        endpoint=status.get("endpoint") or "",
        **known,
    )


def _credential(item: Object) -> Object:
    found = json.loads(annotation(item, values.CREDENTIAL) or "{}")
    return found if isinstance(found, dict) else {}


def _exporter(status: Object, holders: Mapping[str, str]) -> dict[str, Any]:
    devices = [
        Device(uuid=each.get("uuid", ""), parent_uuid=each.get("parent_uuid"), labels=dict(each.get("labels") or {}))
        for each in status.get("devices") or ()
    ]
    told = next((each for each in status.get("conditions") or () if each.get("type") == "Online"), None)
    online = told is not None and told.get("status") == "True"
    said, message = status.get("exporterStatus") or "", status.get("statusMessage") or ""
    if told is not None and not online and status.get("lastSeen") and said not in ("", "Offline"):
        # What it said last is what it will do when it is back.
        said, message = "Offline", "connection lost"
    lease = named(status.get("leaseRef"))
    return {
        "status": "" if said == "Unspecified" else said,
        "status_message": message,
        "online": online,
        "last_seen": _moment(status.get("lastSeen")),
        "lease": lease,
        "leased_by": holders.get(lease, ""),
        "devices": devices,
        "device_count": len(devices),
    }


def secret_record(item: Object) -> Object:
    """Return the account that a Secret holds, as it is stored."""
    found = json.loads(base64.b64decode(item["data"][RECORD]))
    if not isinstance(found, dict):
        raise TypeError(f"the key {RECORD!r} holds no account")
    return found


def secret_data(record: Object) -> Object:
    """Return the data of a Secret that holds an account."""
    return {RECORD: base64.b64encode(json.dumps(record, separators=(",", ":")).encode()).decode()}


def _secret_account(kind: Kind, item: Object) -> Account:
    record, meta = secret_record(item), item["metadata"]
    inner = record["meta"]
    return Account(
        kind=kind,
        namespace=meta["namespace"],
        name=inner["name"],
        uid=inner.get("uid") or meta["uid"],
        version=meta["resourceVersion"],
        labels=dict(inner.get("labels") or {}),
        enabled=record.get("enabled", True),
        created=to_time(inner.get("created") or meta["creationTimestamp"]),
        token_expires=_moment((record.get("credential") or {}).get("expires")),
    )


def new_account(kind: Kind, namespace: str, name: str, labels: Labels, username: str) -> Object:
    """Return the object of a new client or exporter."""
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {"username": username} if username else {},
    }


# -- policies --------------------------------------------------------------------------------------


def _selector(value: Object | None) -> Selector:
    found = value or {}
    return Selector(
        labels=dict(found.get("matchLabels") or {}),
        requirements=[
            Requirement(key=each["key"], operator=each["operator"], values=list(each.get("values") or ()))
            for each in found.get("matchExpressions") or ()
        ],
    )


def policy(item: Object) -> Policy:
    """Return the policy of an object.

    Raises:
        Unreadable: the object is none.
    """
    try:
        meta, spec = item["metadata"], item.get("spec") or {}
        terms: list[Object] = json.loads(annotation(item, values.TERMS) or "[]")
        return Policy(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            version=meta["resourceVersion"],
            created=to_time(meta["creationTimestamp"]),
            exporters=_selector(spec.get("exporterSelector")),
            rules=[
                _rule(rule, terms[number] if number < len(terms) else {})
                for number, rule in enumerate(spec.get("policies") or ())
            ],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(item, error) from error


def _rule(rule: Object, further: Object) -> Rule:
    return Rule(
        description=rule.get("description") or "",
        priority=int(rule.get("priority") or 0),
        clients=[_selector(each.get("clientSelector")) for each in rule.get("from") or ()],
        maximum_duration=_length(rule.get("maximumDuration")),
        spot_access=bool(rule.get("spotAccess")),
        maximum_leases=int(further.get("maximumLeases") or 0),
        **{field: _length(further.get(name)) for name, field in _TERMS.items()},
    )


def policy_object(wanted: Policy) -> Object:
    """Return the object of a policy; what the kind has no field for is in an annotation."""
    from ..manifests import manifest

    body = manifest(wanted)
    spec, terms = body["spec"], []
    for rule in spec["policies"]:
        terms.append({name: rule.pop(name) for name in ("maximumLeases", *_TERMS) if name in rule})
    annotations = {values.TERMS: json.dumps(terms, separators=(",", ":"))} if any(terms) else {}
    return {
        "metadata": {"name": wanted.name, "namespace": wanted.namespace, "annotations": annotations},
        "spec": spec,
    }


# -- leases ----------------------------------------------------------------------------------------


def lease(item: Object) -> LeaseState:
    """Return the lease of an object.

    Raises:
        Unreadable: the object is none.
    """
    try:
        return _lease(item)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(item, error) from error


def _lease(item: Object) -> LeaseState:
    from jumpstarter.client.states import LeaseState

    meta, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    found: Sequence[Object] = status.get("conditions") or ()
    granted = next((each for each in found if each.get("type") == values.GRANTED), None)
    terms: Object = json.loads(granted["message"]) if granted is not None else {}
    begun, ended = _moment(status.get("beginTime")), bool(status.get("ended"))
    duration, wanted_end = _length(spec.get("duration")), _moment(spec.get("endTime"))
    wanted_begin = _moment(spec.get("beginTime"))
    begin = begun or wanted_begin
    if duration is None and begin is not None and wanted_end is not None:
        duration = wanted_end - begin
    until = begin + duration if begin is not None and duration is not None and not ended else None
    if until is not None and wanted_end is not None:
        until = min(until, wanted_end)
    conditions = [_condition(each) for each in found if each is not granted]
    return LeaseState(
        namespace=meta["namespace"],
        name=meta["name"],
        selector=annotation(item, values.SELECTOR) or str(_selector(spec.get("selector"))) or "<none>",
        exporter_name=named(spec.get("exporterRef")) or None,
        duration=duration,
        begin_time=wanted_begin,
        client=named(spec.get("clientRef")),
        exporter=named(status.get("exporterRef")),
        conditions=conditions,
        effective_begin_time=begun,
        effective_end_time=_moment(status.get("endTime")) if begun is not None else None,
        tags=dict(spec.get("tags") or {}),
        until=until,
        limit=_moment(terms.get("limit")),
        reason=" ".join(conditions[-1].message.split()) if conditions else "",
        shares=json.loads(annotation(item, values.SHARES) or "{}"),
        policy=terms.get("policy", ""),
        priority=int(status.get("priority") or 0),
        ended=ended,
    )


def _condition(value: Object) -> Any:
    from jumpstarter_protocol import kubernetes_pb2

    since = _moment(value.get("lastTransitionTime"))
    return kubernetes_pb2.Condition(
        type=value.get("type", ""),
        status=value.get("status", ""),
        reason=value.get("reason", ""),
        message=value.get("message", ""),
        lastTransitionTime=kubernetes_pb2.Time(seconds=int(since.timestamp()), nanos=0) if since else None,
    )
