"""Identity that sessions, exporters, drivers and clients share: a UUID and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID, uuid4

NAME_LABEL = "jumpstarter.dev/name"
"""Label that holds the name of an object within its parent."""

CLIENT_LABEL = "jumpstarter.dev/client"
"""Label that holds the dotted path of a driver's client class."""


@dataclass(kw_only=True)
class Metadata:
    """A UUID and string labels."""

    uuid: UUID = field(default_factory=uuid4)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The value of the name label, or `unknown`."""
        return self.labels.get(NAME_LABEL, "unknown")
