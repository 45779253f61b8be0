"""Selectors and conditions, as Kubernetes objects have them; plainer values are those of `jumpstarter_kubernetes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jumpstarter_kubernetes.values import (
    PREFIX,
    Object,
    from_length,
    from_time,
    named,
    reference,
    to_length,
    to_time,
    without_empty,
)

from ...model.records import Condition
from ...model.selector import Requirement, Selector

__all__ = [
    "PREFIX",
    "Object",
    "difference",
    "from_conditions",
    "from_length",
    "from_selector",
    "from_time",
    "named",
    "reference",
    "to_conditions",
    "to_length",
    "to_selector",
    "to_time",
    "without_empty",
]


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
