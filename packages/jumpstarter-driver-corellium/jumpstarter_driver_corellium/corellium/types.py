"""What Corellium's REST interface tells of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def taken(kind: type[T], item: dict[str, Any]) -> T:
    """Return an object from what it has in common with an item of an answer; the service may tell more any day."""
    return kind(**{each.name: item[each.name] for each in fields(kind) if each.name in item})  # type: ignore[arg-type]


@dataclass
class Project:
    """A project, which instances belong to."""

    id: str
    name: str


@dataclass
class Device:
    """A kind of device that instances can be made of."""

    name: str = ""
    type: str = ""
    flavor: str = ""
    description: str = ""
    model: str = ""
    peripherals: Any = False
    quotas: dict[str, Any] = field(default_factory=dict)


@dataclass
class Instance:
    """A virtual device."""

    id: str
    state: str | None = None
