"""Records as the objects that JSON and YAML show: in the shape of the Kubernetes custom resources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .records import Account, AuditEntry, Kind, Policy, Router, Rule, Selector

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

API_VERSION = "jumpstarter.dev/v1alpha1"
POLICY_KIND = "ExporterAccessPolicy"

Manifest = dict[str, Any]


def time_text(moment: datetime | None) -> str | None:
    """Return a moment as Kubernetes writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None


def duration_text(length: timedelta | None) -> str | None:
    """Return a length of time as Go writes it: `1h30m0s`."""
    if length is None:
        return None
    micros = length // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    seconds, fraction = divmod(micros, 1_000_000)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{seconds}{f'.{fraction:06}'.rstrip('0') if fraction else ''}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def manifest(record: Any) -> Manifest:
    """Return the object for a record."""
    if isinstance(record, Account):
        return _account(record)
    if isinstance(record, Policy):
        return _policy(record)
    if isinstance(record, Router):
        return _router(record)
    if isinstance(record, AuditEntry):
        return _audit(record)
    return _lease(record)


def manifests(kind: str, records: Sequence[Any], render: Callable[[Any], Manifest] = manifest) -> Manifest:
    """Return the object for a list."""
    return {"apiVersion": API_VERSION, "items": [render(record) for record in records], "kind": f"{kind}List"}


def _meta(record: Account | Policy, **more: Any) -> Manifest:
    meta = {
        "creationTimestamp": time_text(record.created),
        "name": record.name,
        "namespace": record.namespace,
        "resourceVersion": record.version,
        "uid": record.uid,
    }
    return {**meta, **{name: value for name, value in more.items() if value}}


def _account(account: Account) -> Manifest:
    spec: Manifest = {"enabled": account.enabled}
    if account.username:
        spec["username"] = account.username
    status: Manifest = {"credential": None, "endpoint": account.endpoint}
    if account.token_expires is not None:
        status["tokenExpiresAt"] = time_text(account.token_expires)
    if account.kind is Kind.EXPORTER:
        status |= {
            "devices": [
                {
                    "labels": dict(device.labels),
                    "uuid": device.uuid,
                    **({"parent_uuid": device.parent_uuid} if device.parent_uuid else {}),
                }
                for device in account.devices
            ],
            "exporterStatus": account.status or None,
            "statusMessage": account.status_message or None,
            "online": account.online,
        }
        if account.lease:
            status["leaseRef"] = {"name": account.lease}
        if account.last_seen is not None:
            status["lastSeen"] = time_text(account.last_seen)
    return {
        "apiVersion": API_VERSION,
        "kind": account.kind.title,
        "metadata": _meta(account, labels=dict(account.labels)),
        "spec": spec,
        "status": status,
    }


def selector(value: Selector) -> Manifest:
    """Return a label selector."""
    found: Manifest = {}
    if value.labels:
        found["matchLabels"] = dict(value.labels)
    if value.requirements:
        found["matchExpressions"] = [
            {"key": each.key, "operator": each.operator, **({"values": list(each.values)} if each.values else {})}
            for each in value.requirements
        ]
    return found


def _policy(policy: Policy) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": _meta(policy),
        "spec": {"exporterSelector": selector(policy.exporters), "policies": [_rule(rule) for rule in policy.rules]},
    }


def _rule(rule: Rule) -> Manifest:
    found: Manifest = {
        "priority": rule.priority,
        "from": [{"clientSelector": selector(each)} for each in rule.clients],
    }
    if rule.description:
        found["description"] = rule.description
    if rule.spot_access:
        found["spotAccess"] = True
    if rule.maximum_leases:
        found["maximumLeases"] = rule.maximum_leases
    for name, length in (
        ("maximumDuration", rule.maximum_duration),
        ("idleTimeout", rule.idle_timeout),
        ("extendByUse", rule.extend_by_use),
        ("maximumUse", rule.maximum_use),
    ):
        if length is not None:
            found[name] = duration_text(length)
    return found


def _router(router: Router) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "Router",
        "metadata": {"name": router.name, "labels": dict(router.labels)},
        "status": {
            "endpoint": router.endpoint,
            "online": router.online,
            "draining": router.draining,
            "streams": router.streams,
            "bytesPerSecond": router.bytes_per_second,
            "lastSeen": time_text(router.last_seen),
        },
    }


def _audit(entry: AuditEntry) -> Manifest:
    return {
        "id": entry.id,
        "time": entry.time.astimezone(UTC).isoformat(timespec="milliseconds"),
        "namespace": entry.namespace,
        "actor": {"kind": entry.actor_kind, "name": entry.actor},
        "peer": entry.peer,
        "action": entry.action,
        "client": entry.client,
        "exporter": entry.exporter,
        "lease": entry.lease,
        "details": dict(entry.details),
    }


def _lease(lease: LeaseState) -> Manifest:
    from jumpstarter.client.selectors import parse_label_selector

    equal, others = parse_label_selector("" if lease.selector == "<none>" else lease.selector)
    wanted: Manifest = {"matchLabels": equal}
    if others:
        wanted["matchExpressions"] = [_expression(*each) for each in others]
    spec: Manifest = {
        "client": {"name": lease.client},
        "duration": duration_text(lease.duration),
        "selector": wanted,
    }
    if lease.exporter_name:
        spec["exporterRef"] = {"name": lease.exporter_name}
    if lease.begin_time is not None:
        spec["beginTime"] = time_text(lease.begin_time)
    if lease.tags:
        spec["tags"] = dict(lease.tags)
    status: Manifest = {
        "beginTime": time_text(lease.effective_begin_time),
        "conditions": lease.model_dump(mode="json", include={"conditions"})["conditions"],
        "endTime": time_text(lease.effective_end_time),
        "ended": lease.ended,
        "exporter": {"name": lease.exporter} if lease.exporter else None,
        "priority": lease.priority,
    }
    for name, value in (
        ("expiresAt", time_text(lease.until)),
        ("limit", time_text(lease.limit)),
        ("idleAt", time_text(lease.idle_until)),
        ("policy", lease.policy),
        ("shares", dict(lease.shares)),
        ("place", lease.place),
    ):
        if value:
            status[name] = value
    return {
        "apiVersion": API_VERSION,
        "kind": "Lease",
        "metadata": {"name": lease.name, "namespace": lease.namespace},
        "spec": spec,
        "status": status,
    }


_OPERATORS = {"in": "In", "notin": "NotIn", "!=": "NotIn", "exists": "Exists", "!exists": "DoesNotExist"}


def _expression(key: str, operator: str, values: list[str]) -> Manifest:
    found: Manifest = {"key": key, "operator": _OPERATORS[operator]}
    return {**found, "values": values} if values else found
