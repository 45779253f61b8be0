"""Lengths, times and references as a lab's objects have them, and the names of what the kinds lack fields for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]

PREFIX = "lab.jumpstarter.dev/"
"""Prefix of the labels and annotations in which a lab keeps what the kinds have no fields for."""

KIND_LABEL = f"{PREFIX}kind"
"""Label of Secrets that hold accounts which clusters have no kind for: `admins` or `routers`."""

CREDENTIAL = f"{PREFIX}credential"
"""Annotation of clients and exporters: identity and end of the valid token, and of replaced ones; JSON."""

ENABLED = f"{PREFIX}enabled"
"""Annotation of clients: `false` while all their calls are refused."""

CREATED = f"{PREFIX}created"
"""Annotation with the time of creation, of objects that came from elsewhere."""

SELECTOR = f"{PREFIX}selector"
"""Annotation of leases: the selector as the requester wrote it."""

SHARES = f"{PREFIX}shares"
"""Annotation of leases: roles of other clients, by their names; JSON."""

TERMS = f"{PREFIX}terms"
"""Annotation of policies: for each rule what the kind has no field for; JSON."""

GRANTED = "Granted"
"""Type of the condition of leases whose message holds the terms of the grant; JSON."""

MIGRATED_UID = "jumpstarter.dev/migrated-uid"
"""Annotation with the identity of an object that came from elsewhere: its tokens name that one."""

MIGRATED_NAMESPACE = "jumpstarter.dev/migrated-namespace"
"""Annotation with the namespace that the tokens of an object from elsewhere name."""

MIGRATED_TOKEN = "jumpstarter.dev/migrated-token"
"""Annotation with the identity (`jti`) of a token that its owner brought along from elsewhere: no Secret holds it, and
none is needed while it is the valid one."""

ENDED_LABEL = "jumpstarter.dev/lease-ended"
"""Label of leases that have ended; its value is `true`."""

CA_CONFIG_MAP = "jumpstarter-service-ca-cert"
"""Where what peers have to trust is, under the key `CA_KEY`."""

CA_KEY = "ca.crt"

TOKEN_KEY = "token"
"""Key of the token in the Secret of a client or exporter."""

ACCOUNT_SECRETS: Mapping[str, str] = {"admins": "jumpstarter-admin-", "routers": "jumpstarter-router-"}
"""Prefixes of the names of Secrets that hold accounts, by the value of `KIND_LABEL`."""

_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
    "µs": timedelta(microseconds=1),
    "μs": timedelta(microseconds=1),
}
_PART = re.compile(r"(\d+)(?:\.(\d*))?(ms|us|µs|μs|ns|[wdhms])")
_WHOLE = re.compile(rf"[-+]?(?:0|(?:{_PART.pattern})+)")
_FRACTION = re.compile(r"(\.\d{6})\d+")
_SECOND = timedelta(seconds=1)


def from_length(value: timedelta) -> str:
    """Return a length as Go writes it, such as `1h30m0s`."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    whole, rest = divmod(value, _SECOND)
    fraction = f".{rest // timedelta(microseconds=1):06}".rstrip("0") if rest else ""
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{seconds}{fraction}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return sign + (f"{hours}h{text}" if hours else text)


def to_length(text: str) -> timedelta:
    """Return the length that a text of Go means, such as `1h30m0s` or `250ms`; days and weeks are known as well.

    Raises:
        ValueError: it means none.
    """
    if not isinstance(text, str) or not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no length of time")
    value = timedelta(0)
    for whole, fraction, unit in _PART.findall(text):
        if unit == "ns":
            value += timedelta(microseconds=int(whole) // 1000)
            continue
        # Whole numbers are exact, whatever their size.
        value += int(whole) * _UNITS[unit]
        if fraction:
            value += _UNITS[unit] * int(fraction) / 10 ** len(fraction)
    return -value if text.startswith("-") else value


def from_time(value: datetime) -> str:
    """Return a time in UTC (RFC 3339), with a fraction only where there is one."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_time(text: str) -> datetime:
    """Return the time that a text means.

    Raises:
        ValueError: it means none.
    """
    value = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def reference(name: str) -> Object:
    """Return the name of another object, as fields that end in `Ref` have it."""
    return {"name": name}


def named(value: Mapping[str, Any] | None) -> str:
    """Return the name in a reference; empty for none."""
    return str((value or {}).get("name") or "")


def without_empty(**fields: Any) -> Object:
    """Return the fields that say something: no None, no empty text, list or mapping; False and 0 stay."""
    return {
        key: value for key, value in fields.items() if value is not None and value != "" and value != [] and value != {}
    }


def annotation(item: Mapping[str, Any], name: str) -> str:
    """Return an annotation of an object; empty for none."""
    return str(((item.get("metadata") or {}).get("annotations") or {}).get(name) or "")
