"""Label and field selectors of requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .status import Refusal

Test = Callable[[dict[str, Any]], bool]

_KEY = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*\Z")
_EQUAL = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*\Z")
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*\Z")
_COMMAS = re.compile(r",(?![^()]*\))")


def label_test(text: str) -> Test:
    """Return what tells whether an object's labels match.

    Raises:
        Refusal: the text is no label selector.
    """
    tests = [_requirement(part) for part in _COMMAS.split(text)] if text.strip() else []

    def test(item: dict[str, Any]) -> bool:
        labels = item["metadata"].get("labels") or {}
        return all(one(labels) for one in tests)

    return test


def _requirement(text: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(text):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: key not in labels or labels[key] not in values
    if found := _EQUAL.match(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(text):
        absent, key = found.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise Refusal(400, "BadRequest", f"unable to parse requirement: {text!r}")


_FIELDS = {
    "": {"metadata.name", "metadata.namespace"},
    "Secret": {"type"},
    "Pod": {"spec.nodeName", "status.phase", "spec.serviceAccountName"},
    "Event": {"involvedObject.name", "involvedObject.kind", "reason", "type"},
    "Namespace": {"status.phase"},
}


def field_test(text: str, kind: str, also: frozenset[str] = frozenset()) -> Test:
    """Return what tells whether an object's fields match.

    Args:
        also: `selectableFields` of a custom resource.

    Raises:
        Refusal: the kind can't be selected by such a field.
    """
    wanted: list[tuple[list[str], bool, str]] = []
    for part in text.split(",") if text.strip() else []:
        found = re.match(r"\s*([^=!\s]+)\s*(==|=|!=)\s*(\S*)\s*\Z", part)
        if found is None:
            raise Refusal(400, "BadRequest", f"invalid selector: {part!r}; can't understand {part!r}")
        path, operator, value = found.groups()
        if path not in _FIELDS[""] | _FIELDS.get(kind, set()) | also:
            raise Refusal(400, "BadRequest", f"field label not supported: {path}")
        wanted.append((path.split("."), operator == "!=", value))

    def test(item: dict[str, Any]) -> bool:
        return all((_at(item, path) == value) != negated for path, negated, value in wanted)

    return test


def _at(item: Any, path: list[str]) -> str:
    for part in path:
        item = item.get(part) if isinstance(item, dict) else None
    return "" if item is None else str(item).lower() if isinstance(item, bool) else str(item)
