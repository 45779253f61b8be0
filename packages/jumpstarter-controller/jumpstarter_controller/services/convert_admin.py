"""Accounts, policies and audit entries as messages for admins, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jumpstarter_protocol import admin_pb2, lab_pb2

from ..errors import Code
from ..model.records import Account, AuditEntry, Exporter, Kind, Meta, Policy, Rule
from .convert import duration, length_of, selector_message, selector_of_message, timestamp
from .errors import Said

KINDS: Mapping[int, Kind] = {
    admin_pb2.KIND_CLIENT: Kind.CLIENT,
    admin_pb2.KIND_EXPORTER: Kind.EXPORTER,
    admin_pb2.KIND_ADMIN: Kind.ADMIN,
    admin_pb2.KIND_ROUTER: Kind.ROUTER,
}
_NUMBERS: Mapping[Kind, Any] = {kind: number for number, kind in KINDS.items()}

MOST_RULES = 256


def kind_of(number: int) -> Kind:
    """Return a kind of account.

    Raises:
        Refused: it is none.
    """
    if number not in KINDS:
        raise Said(Code.INVALID_ARGUMENT, "KIND_MISSING", "kind is required: one of client, exporter, admin and router")
    return KINDS[number]


def account_message(
    account: Account | Exporter, state: lab_pb2.ExporterState | None = None, *, devices: bool = True
) -> admin_pb2.Account:
    """Return an account.

    Args:
        state: of an exporter.
        devices: tell each device of an exporter, and not only how many there are.
    """
    meta = account.meta
    message = admin_pb2.Account(
        kind=_NUMBERS[account.key.kind],
        name=str(account.key),
        uid=meta.uid,
        labels=dict(meta.labels),
        username=account.username,
        enabled=account.enabled,
        version=meta.version,
    )
    if meta.created is not None:
        message.created.CopyFrom(timestamp(meta.created))
    if account.credential.expires is not None:
        message.token_expires.CopyFrom(timestamp(account.credential.expires))
    if isinstance(account, Exporter):
        message.exporter.CopyFrom(
            admin_pb2.ExporterPart(
                state=state, online=account.online, registered=account.registered, devices=len(account.devices)
            )
        )
        if devices:
            message.exporter.device.extend(
                admin_pb2.Device(uuid=device.uuid, parent_uuid=device.parent_uuid, labels=dict(device.labels))
                for device in account.devices
            )
    return message


def policy_message(policy: Policy) -> admin_pb2.Policy:
    """Return an access policy."""
    message = admin_pb2.Policy(
        name=str(policy.key),
        uid=policy.meta.uid,
        version=policy.meta.version,
        exporter_selector=selector_message(policy.exporters),
        rules=[_rule_message(rule) for rule in policy.rules],
    )
    if policy.meta.created is not None:
        message.created.CopyFrom(timestamp(policy.meta.created))
    return message


_LENGTHS = ("maximum_duration", "idle_timeout", "extend_by_use", "maximum_use")


def _rule_message(rule: Rule) -> admin_pb2.Rule:
    message = admin_pb2.Rule(
        description=rule.description,
        priority=rule.priority,
        clients=[selector_message(selector) for selector in rule.clients],
        spot_access=rule.spot_access,
        maximum_leases=rule.maximum_leases,
    )
    for name in _LENGTHS:
        length = getattr(rule, name)
        if length is not None:
            getattr(message, name).CopyFrom(duration(length))
    return message


def policy_of(message: admin_pb2.Policy, meta: Meta) -> Policy:
    """Return the policy that a message describes.

    Raises:
        Refused: a selector or a duration is invalid.
    """
    if len(message.rules) > MOST_RULES:
        raise Said(
            Code.INVALID_ARGUMENT,
            "TOO_MANY_RULES",
            f"policy {meta.name} has {len(message.rules)} rules; {MOST_RULES} are possible",
        )
    return Policy(
        meta=meta,
        exporters=selector_of_message(message.exporter_selector),
        rules=tuple(_rule_of(rule) for rule in message.rules),
    )


def _rule_of(message: admin_pb2.Rule) -> Rule:
    lengths = {name: positive_length(message, name) for name in _LENGTHS}
    return Rule(
        description=message.description,
        priority=message.priority,
        clients=tuple(selector_of_message(selector) for selector in message.clients),
        spot_access=message.spot_access,
        maximum_leases=message.maximum_leases,
        **lengths,
    )


def positive_length(message: Any, field: str) -> timedelta | None:
    """Return a duration of a request, None when it is not set.

    Raises:
        Refused: it is out of range, zero or negative.
    """
    length = length_of(message, field)
    if length is not None and length <= timedelta(0):
        raise Said(Code.INVALID_ARGUMENT, "INVALID_DURATION", f"{field} has to be longer than nothing")
    return length


def audit_message(entry: AuditEntry) -> admin_pb2.AuditEntry:
    """Return an entry of the audit record."""
    message = admin_pb2.AuditEntry(
        id=entry.id,
        namespace=entry.namespace,
        actor_kind=entry.actor_kind,
        actor=entry.actor,
        peer=entry.peer,
        action=entry.action,
        client=entry.client,
        exporter=entry.exporter,
        lease=entry.lease,
        details={key: str(value) for key, value in entry.details.items()},
    )
    message.time.CopyFrom(timestamp(entry.time))
    return message
