"""Label selectors: their text, their structured form, and whether they match.

The grammar is that of Kubernetes (labels and selectors), with the limits that leases set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]


@dataclass(frozen=True, order=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selector:
    """Labels that have to be equal, and further requirements; all of them have to hold. The empty one matches all."""

    labels: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.requirements)
