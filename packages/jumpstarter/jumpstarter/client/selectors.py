"""Label selectors in Kubernetes syntax: taking them apart and comparing them."""

from __future__ import annotations

import re

Requirement = tuple[str, str, list[str]]
"""Key, operator (`in`, `notin`, `exists`, `!exists` or `!=`) and values."""

_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*)")
_EXISTENCE = re.compile(rf"(?P<absent>!?)\s*(?P<key>{_KEY})")
_PART = re.compile(r"(?:[^,()]|\([^()]*\))+")


def parse_label_selector(selector: str) -> tuple[dict[str, str], list[Requirement]]:
    """Return the labels that have to be equal and the other requirements; what has no known form is left out.

    Example:
        >>> parse_label_selector("board=rpi4, arch in (arm64, riscv), !broken")
        ({'board': 'rpi4'}, [('arch', 'in', ['arm64', 'riscv']), ('broken', '!exists', [])])
    """
    equal: dict[str, str] = {}
    others: list[Requirement] = []
    for part in _PART.findall(selector or ""):
        text = part.strip()
        if found := _SET.fullmatch(text):
            values = [value.strip() for value in found["values"].split(",")]
            others.append((found["key"], found["operator"], values))
        elif found := _EQUALITY.fullmatch(text):
            if found["operator"] == "!=":
                others.append((found["key"], "!=", [found["value"]]))
            else:
                equal[found["key"]] = found["value"]
        elif found := _EXISTENCE.fullmatch(text):
            others.append((found["key"], "!exists" if found["absent"] else "exists", []))
    return equal, others


def extract_match_labels_filter(selector: str) -> str | None:
    """Return the part of `selector` that asks for equal labels, or None when it asks for none."""
    equal, _ = parse_label_selector(selector)
    return ",".join(f"{key}={value}" for key, value in equal.items()) or None


def selector_contains(selector: str, requirements: str) -> bool:
    """Tell whether everything that matches `selector` is known to meet `requirements`.

    Each requirement has to stand in `selector` as well, or follow from the labels that it asks to be equal.
    """
    equal, others = parse_label_selector(selector)
    wanted_equal, wanted_others = parse_label_selector(requirements)
    if any(equal.get(key) != value for key, value in wanted_equal.items()):
        return False
    stated = {_comparable(other) for other in others}
    return all(_comparable(wanted) in stated or _follows(wanted, equal) for wanted in wanted_others)


def _follows(requirement: Requirement, labels: dict[str, str]) -> bool:
    """Tell whether known labels meet the requirement; of a label that isn't known nothing follows."""
    key, operator, values = requirement
    match operator:
        case "in":
            return labels.get(key) in values
        case "notin" | "!=":
            return key in labels and labels[key] not in values
        case "exists":
            return key in labels
        case "!exists":
            return False
    raise ValueError(f"unknown operator in a label selector: {operator!r}")


def same_selector(one: str | None, other: str | None) -> bool:
    """Tell whether two selectors ask for the same, however they are written; empty ones may read `<none>`."""
    return _normal(one) == _normal(other)


def _normal(selector: str | None) -> tuple[frozenset[tuple[str, str]], frozenset[tuple[str, str, frozenset[str]]]]:
    equal, others = parse_label_selector("" if selector in (None, "<none>") else str(selector))
    pairs = set(equal.items())
    rest = set()
    for other in others:
        key, operator, values = other
        # A set of one is the same as an equality, and controllers may write either.
        if operator == "in" and len(values) == 1:
            pairs.add((key, values[0]))
        else:
            rest.add(_comparable(other))
    return frozenset(pairs), frozenset(rest)


def _comparable(requirement: Requirement) -> tuple[str, str, frozenset[str]]:
    key, operator, values = requirement
    return key, "notin" if operator == "!=" else operator, frozenset(values)
