"""Records as the objects of a cluster, and back.

What the kinds have no fields for is in annotations of the prefix `lab.jumpstarter.dev/`; what changes with the status
is in conditions of the status instead, so that it costs no write of its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jumpstarter_kubernetes.resources import CLIENTS, EXPORTERS, LEASES, POLICIES, SECRETS, Resource
from jumpstarter_kubernetes.values import ACCOUNT_SECRETS, GRANTED, KIND_LABEL, MIGRATED_UID

from ...model.records import (
    Account,
    Condition,
    Credential,
    Device,
    Exporter,
    ExporterStatus,
    Key,
    Kind,
    Lease,
    Meta,
    Policy,
    Record,
    Role,
    Rule,
)
from .. import codec
from ..base import StoreError
from .values import (
    PREFIX,
    Object,
    from_conditions,
    from_length,
    from_selector,
    from_time,
    named,
    reference,
    to_conditions,
    to_length,
    to_selector,
    to_time,
    without_empty,
)

RESOURCES: Mapping[Kind, Resource] = {
    Kind.CLIENT: CLIENTS,
    Kind.EXPORTER: EXPORTERS,
    Kind.LEASE: LEASES,
    Kind.POLICY: POLICIES,
    Kind.ADMIN: SECRETS,
    Kind.ROUTER: SECRETS,
}

_VIA = "connected to "
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ACCOUNT_NAMES = {kind: ACCOUNT_SECRETS[kind.value] for kind in (Kind.ADMIN, Kind.ROUTER)}


class Unreadable(StoreError):
    """An object is not what its kind should be; the text says which one and why."""


def object_name(key: Key) -> str:
    """Return the name that the object of a record has."""
    return _ACCOUNT_NAMES.get(key.kind, "") + key.name


def encode(record: Record) -> Object:
    """Return the object of a record, without what the server gives."""
    encoders: Mapping[type, Callable[[Any], Object]] = {
        Account: _from_account,
        Exporter: _from_exporter,
        Lease: _from_lease,
        Policy: _from_policy,
    }
    return encoders[type(record)](record)


def decode(kind: Kind, item: Object) -> Record:
    """Return the record of an object.

    Raises:
        Unreadable: it is none, such as one that was written by hand.
    """
    decoders: Mapping[Kind, Callable[[Object, Meta, Mapping[str, str]], Record]] = {
        Kind.CLIENT: _to_client,
        Kind.EXPORTER: _to_exporter,
        Kind.LEASE: _to_lease,
        Kind.POLICY: _to_policy,
    }
    try:
        if kind in _ACCOUNT_NAMES:
            return _to_secret_account(kind, item)
        own = {
            key.removeprefix(PREFIX): value
            for key, value in (item["metadata"].get("annotations") or {}).items()
            if key.startswith(PREFIX)
        }
        return decoders[kind](item, _to_meta(item["metadata"], own), own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        meta = item.get("metadata") or {}
        place = f"{meta.get('namespace')}/{meta.get('name')}"
        raise Unreadable(f"{RESOURCES[kind].full_name} {place} can't be read: {error!r}") from error


# -- metadata --------------------------------------------------------------------------------------


def _from_meta(meta: Meta, **own: Any) -> Object:
    annotations = dict(meta.annotations)
    if meta.uid:
        annotations[MIGRATED_UID] = meta.uid
    if meta.created is not None:
        own["created"] = from_time(meta.created)
    for name, value in own.items():
        if value is not None and value != "" and value != {} and value != []:
            annotations[PREFIX + name] = value if isinstance(value, str) else _json(value)
    return {
        "namespace": meta.namespace,
        "name": meta.name,
        "labels": dict(meta.labels),
        "annotations": annotations,
    }


def _to_meta(meta: Object, own: Mapping[str, str]) -> Meta:
    annotations = {
        key: value
        for key, value in (meta.get("annotations") or {}).items()
        if key != MIGRATED_UID and not key.startswith(PREFIX)
    }
    return Meta(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=(meta.get("annotations") or {}).get(MIGRATED_UID) or meta["uid"],
        version=meta["resourceVersion"],
        created=to_time(own.get("created") or meta["creationTimestamp"]),
        labels=dict(meta.get("labels") or {}),
        annotations=annotations,
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


# -- accounts --------------------------------------------------------------------------------------


def _from_credential(credential: Credential) -> Object:
    return without_empty(
        jti=credential.jti,
        expires=from_time(credential.expires) if credential.expires else "",
        former=[[jti, from_time(until)] for jti, until in credential.former],
    )


def _to_credential(text: str | None) -> Credential:
    found = json.loads(text) if text else {}
    return Credential(
        jti=found.get("jti", ""),
        expires=to_time(found["expires"]) if "expires" in found else None,
        former=tuple((jti, to_time(until)) for jti, until in found.get("former", ())),
    )


def _from_account(account: Account) -> Object:
    if account.kind in _ACCOUNT_NAMES:
        content = base64.b64encode(codec.encode(account).encode()).decode()
        return {
            "metadata": {
                "namespace": account.meta.namespace,
                "name": object_name(account.key),
                "labels": {KIND_LABEL: account.kind.value},
                "annotations": {},
            },
            "type": f"{PREFIX}account",
            "data": {"record": content},
        }
    own = {"credential": _from_credential(account.credential), "enabled": "" if account.enabled else "false"}
    status = without_empty(tokenExpiresAt=from_time(account.credential.expires) if account.credential.expires else None)
    return {
        "metadata": _from_meta(account.meta, **own),
        "spec": without_empty(username=account.username),
        "status": status,
    }


def _to_client(item: Object, meta: Meta, own: Mapping[str, str]) -> Account:
    spec = item.get("spec") or {}
    return Account(
        kind=Kind.CLIENT,
        meta=meta,
        username=spec.get("username") or "",
        enabled=own.get("enabled") != "false",
        credential=_to_credential(own.get("credential")),
    )


def _to_secret_account(kind: Kind, item: Object) -> Account:
    record = codec.decode(kind, base64.b64decode(item["data"]["record"]).decode())
    meta = item["metadata"]
    assert isinstance(record, Account)
    return codec.stamp(  # type: ignore[return-value]
        record,
        uid=record.meta.uid or meta["uid"],
        version=meta["resourceVersion"],
        created=record.meta.created or to_time(meta["creationTimestamp"]),
    )


# -- exporters -------------------------------------------------------------------------------------


def _from_exporter(exporter: Exporter) -> Object:
    since = exporter.meta.created or _EPOCH
    own = {"credential": _from_credential(exporter.credential)}
    conditions = [
        _condition("Registered", exporter.registered, "Register" if exporter.registered else "Unregister", since),
        _condition(
            "Online",
            exporter.online,
            "Seen" if exporter.online else "Offline",
            exporter.last_seen or since,
            f"{_VIA}{exporter.via}" if exporter.via else "",
        ),
    ]
    if exporter.freed is not None:
        # When it was free last; by it the exporter is chosen that was not used for the longest time.
        conditions.append(
            _condition("Leased", bool(exporter.lease), "Held" if exporter.lease else "Free", exporter.freed)
        )
    if exporter.draining:
        conditions.append(_condition("Draining", True, "Asked", since))
    devices = [
        without_empty(uuid=device.uuid, parent_uuid=device.parent_uuid) | {"labels": dict(device.labels)}
        for device in exporter.devices
    ]
    status = without_empty(
        devices=devices,
        leaseRef=reference(exporter.lease) if exporter.lease else None,
        lastSeen=from_time(exporter.last_seen) if exporter.last_seen else None,
        exporterStatus=exporter.status.value if exporter.status is not None else None,
        statusMessage=exporter.status_message,
        conditions=from_conditions(conditions),
    )
    spec = without_empty(username=exporter.username) | {"enabled": exporter.enabled}
    return {"metadata": _from_meta(exporter.meta, **own), "spec": spec, "status": status}


def _condition(name: str, holds: bool, reason: str, since: datetime, message: str = "") -> Condition:
    return Condition(type=name, status="True" if holds else "False", reason=reason, message=message, since=since)


def _to_exporter(item: Object, meta: Meta, own: Mapping[str, str]) -> Exporter:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    conditions = {condition.type: condition for condition in to_conditions(status.get("conditions"))}

    def holds(name: str) -> bool:
        return name in conditions and conditions[name].status == "True"

    devices = tuple(
        Device(uuid=device["uuid"], parent_uuid=device.get("parent_uuid"), labels=dict(device.get("labels") or {}))
        for device in status.get("devices") or ()
    )
    return Exporter(
        meta=meta,
        username=spec.get("username") or "",
        enabled=spec.get("enabled", True),
        credential=_to_credential(own.get("credential")),
        devices=devices,
        online=holds("Online"),
        last_seen=to_time(status["lastSeen"]) if status.get("lastSeen") else None,
        status=ExporterStatus(status["exporterStatus"]) if status.get("exporterStatus") else None,
        status_message=status.get("statusMessage") or "",
        lease=named(status.get("leaseRef")),
        freed=conditions["Leased"].since if "Leased" in conditions else None,
        draining=holds("Draining"),
        via=conditions["Online"].message.removeprefix(_VIA) if "Online" in conditions else "",
    )


# -- leases ----------------------------------------------------------------------------------------


def _from_lease(lease: Lease) -> Object:
    own = {
        "selector": lease.selector_text,
        "shares": {name: role.value for name, role in lease.shares.items()},
    }
    spec = without_empty(
        clientRef=reference(lease.client),
        duration=from_length(lease.duration) if lease.duration is not None else None,
        exporterRef=reference(lease.exporter_name) if lease.exporter_name else None,
        tags=dict(lease.tags),
        context=dict(lease.context),
        allowDisabled=lease.allow_disabled or None,
        release=lease.release or None,
        beginTime=from_time(lease.begin_time) if lease.begin_time else None,
        endTime=from_time(lease.end_time) if lease.end_time else None,
    )
    terms = without_empty(
        policy=lease.policy,
        limit=from_time(lease.limit) if lease.limit else None,
        idleTimeout=from_length(lease.idle_timeout) if lease.idle_timeout is not None else None,
        extendByUse=from_length(lease.extend_by_use) if lease.extend_by_use is not None else None,
    )
    conditions = list(lease.conditions)
    if terms:
        # The first one, because older releases look at the last.
        granted = Condition(
            type=GRANTED, status="True", reason="Terms", message=_json(terms), since=lease.meta.created or _EPOCH
        )
        conditions.insert(0, granted)
    status = without_empty(
        beginTime=from_time(lease.begun) if lease.begun else None,
        endTime=from_time(lease.ended_at) if lease.ended_at else None,
        exporterRef=reference(lease.exporter) if lease.exporter else None,
        priority=lease.priority or None,
        spotAccess=lease.spot or None,
        conditions=from_conditions(conditions),
    )
    return {
        "metadata": _from_meta(lease.meta, **own),
        "spec": spec | {"selector": from_selector(lease.selector)},
        "status": status | {"ended": lease.ended},
    }


def _to_lease(item: Object, meta: Meta, own: Mapping[str, str]) -> Lease:
    spec, status = item["spec"], item.get("status") or {}
    conditions = to_conditions(status.get("conditions"))
    terms: Object = next((json.loads(condition.message) for condition in conditions if condition.type == GRANTED), {})

    def moment(values: Object, name: str) -> datetime | None:
        return to_time(values[name]) if values.get(name) else None

    def length(values: Object, name: str) -> timedelta | None:
        return to_length(values[name]) if values.get(name) else None

    return Lease(
        meta=meta,
        client=named(spec.get("clientRef")),
        selector=to_selector(spec.get("selector")),
        selector_text=own.get("selector", ""),
        exporter_name=named(spec.get("exporterRef")),
        duration=length(spec, "duration"),
        begin_time=moment(spec, "beginTime"),
        end_time=moment(spec, "endTime"),
        tags=dict(spec.get("tags") or {}),
        context=dict(spec.get("context") or {}),
        allow_disabled=bool(spec.get("allowDisabled")),
        release=bool(spec.get("release")),
        exporter=named(status.get("exporterRef")),
        begun=moment(status, "beginTime"),
        ended_at=moment(status, "endTime"),
        ended=bool(status.get("ended")),
        conditions=tuple(condition for condition in conditions if condition.type != GRANTED),
        priority=int(status.get("priority") or 0),
        spot=bool(status.get("spotAccess")),
        shares={name: Role(role) for name, role in json.loads(own.get("shares", "{}")).items()},
        policy=terms.get("policy", ""),
        limit=moment(terms, "limit"),
        idle_timeout=length(terms, "idleTimeout"),
        extend_by_use=length(terms, "extendByUse"),
    )


# -- policies --------------------------------------------------------------------------------------


def _from_policy(policy: Policy) -> Object:
    terms = [
        without_empty(
            maximumLeases=rule.maximum_leases or None,
            idleTimeout=from_length(rule.idle_timeout) if rule.idle_timeout is not None else None,
            extendByUse=from_length(rule.extend_by_use) if rule.extend_by_use is not None else None,
            maximumUse=from_length(rule.maximum_use) if rule.maximum_use is not None else None,
        )
        for rule in policy.rules
    ]
    rules = [
        without_empty(
            description=rule.description,
            priority=rule.priority or None,
            maximumDuration=from_length(rule.maximum_duration) if rule.maximum_duration is not None else None,
            spotAccess=rule.spot_access or None,
        )
        | {"from": [{"clientSelector": from_selector(selector)} for selector in rule.clients]}
        for rule in policy.rules
    ]
    own = {"terms": terms if any(terms) else []}
    spec = {"exporterSelector": from_selector(policy.exporters), "policies": rules}
    return {"metadata": _from_meta(policy.meta, **own), "spec": spec, "status": {}}


def _to_policy(item: Object, meta: Meta, own: Mapping[str, str]) -> Policy:
    spec = item.get("spec") or {}
    terms: list[Object] = json.loads(own.get("terms", "[]"))

    def length(values: Object, name: str) -> timedelta | None:
        return to_length(values[name]) if values.get(name) else None

    rules = []
    for number, rule in enumerate(spec.get("policies") or ()):
        further = terms[number] if number < len(terms) else {}
        rules.append(
            Rule(
                description=rule.get("description") or "",
                priority=int(rule.get("priority") or 0),
                clients=tuple(to_selector(entry.get("clientSelector")) for entry in rule.get("from") or ()),
                maximum_duration=length(rule, "maximumDuration"),
                spot_access=bool(rule.get("spotAccess")),
                maximum_leases=int(further.get("maximumLeases", 0)),
                idle_timeout=length(further, "idleTimeout"),
                extend_by_use=length(further, "extendByUse"),
                maximum_use=length(further, "maximumUse"),
            )
        )
    return Policy(meta=meta, exporters=to_selector(spec.get("exporterSelector")), rules=tuple(rules))
