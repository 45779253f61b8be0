"""Lengths, times, selectors and conditions, as Kubernetes objects have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ...durations import parse_duration
from ...model.records import Condition
from ...model.selector import Requirement, Selector

Object = dict[str, Any]

PREFIX = "lab.jumpstarter.dev/"
"""Prefix of the labels and annotations in which a lab keeps what the kinds have no fields for."""

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
    """Return the length that a text of Go means.

    Raises:
        ValueError: it means none.
    """
    negative = text.startswith("-")
    parts = re.fullmatch(r"-?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.(\d{1,9}))?s)?", text)
    if parts is not None and text.lstrip("-"):
        hours, minutes, seconds, fraction = parts.groups()
        value = timedelta(hours=int(hours or 0), minutes=int(minutes or 0), seconds=int(seconds or 0))
        value += timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6]))
        return -value if negative else value
    found = parse_duration(text)
    if not isinstance(found, timedelta):
        raise ValueError(f"{text!r} is no length of time")
    return found


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


def from_selector(selector: Selector) -> Object:
    """Return a selector as the field of that name has it."""
    result: Object = {}
    if selector.labels:
        result["matchLabels"] = dict(selector.labels)
    if selector.requirements:
        result["matchExpressions"] = [
            {"key": item.key, "operator": item.operator, **({"values": list(item.values)} if item.values else {})}
            for item in selector.requirements
        ]
    return result


def to_selector(value: Mapping[str, Any] | None) -> Selector:
    """Return a selector.

    Raises:
        ValueError, KeyError: it is none.
    """
    found = value or {}
    requirements = tuple(
        Requirement(item["key"], item["operator"], tuple(item.get("values") or ()))
        for item in found.get("matchExpressions") or ()
    )
    return Selector(dict(found.get("matchLabels") or {}), requirements)


def from_conditions(conditions: Iterable[Condition]) -> list[Object]:
    """Return conditions in their order."""
    return [
        {
            "type": item.type,
            "status": item.status,
            "reason": item.reason or "Unknown",
            "message": item.message,
            "lastTransitionTime": from_time(item.since),
            # `jmp admin` of published releases wants it there.
            "observedGeneration": 0,
        }
        for item in conditions
    ]


def to_conditions(values: Iterable[Mapping[str, Any]] | None) -> tuple[Condition, ...]:
    """Return conditions in their order."""
    return tuple(
        Condition(
            type=item["type"],
            status=item["status"],
            reason=item.get("reason", ""),
            message=item.get("message", ""),
            since=to_time(item["lastTransitionTime"]),
        )
        for item in values or ()
    )


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


def difference(old: Any, new: Any) -> Any:
    """Return the merge patch (RFC 7386) that makes one object of another; empty for the same."""
    patch: Object = {}
    for key in old.keys() | new.keys():
        if key not in new:
            patch[key] = None
        elif key not in old:
            patch[key] = new[key]
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            if inner := difference(old[key], new[key]):
                patch[key] = inner
        elif old[key] != new[key]:
            patch[key] = new[key]
    return patch
