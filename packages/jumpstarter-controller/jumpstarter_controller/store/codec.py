"""Records and audit details as JSON texts, and times as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from ..model.records import Account, Exporter, Kind, Lease, Policy, Record

_TYPES: Mapping[Kind, type[Account] | type[Exporter] | type[Lease] | type[Policy]] = {
    Kind.CLIENT: Account,
    Kind.EXPORTER: Exporter,
    Kind.LEASE: Lease,
    Kind.POLICY: Policy,
    Kind.ADMIN: Account,
    Kind.ROUTER: Account,
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@cache
def _adapter(kind: Kind) -> TypeAdapter[Any]:
    return TypeAdapter(_TYPES[kind])


def encode(record: Record) -> str:
    """Return a record as JSON."""
    return _adapter(record.key.kind).dump_json(record).decode()


def decode(kind: Kind, text: str) -> Record:
    """Return the record that `encode` made a text of.

    Raises:
        ValueError: the text is something else.
    """
    record: Record = _adapter(kind).validate_json(text)
    return record


def stamp(record: Record, *, uid: str, version: str, created: datetime) -> Record:
    """Return a record with what the store gives to it."""
    return replace(record, meta=replace(record.meta, uid=uid, version=version, created=created))


def encode_details(details: Mapping[str, Any]) -> str:
    """Return the details of an audit entry as JSON; what JSON doesn't know becomes text."""
    return json.dumps(dict(details), default=str, separators=(",", ":")) if details else "{}"


def decode_details(text: str) -> dict[str, Any]:
    """Return the details of an audit entry."""
    details: dict[str, Any] = json.loads(text)
    return details


def to_number(time: datetime) -> int:
    """Return a time as microseconds since 1970; one without a zone counts as UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def to_time(number: int) -> datetime:
    """Return the time, in UTC, that is so many microseconds after 1970."""
    return _EPOCH + number * _MICROSECOND
