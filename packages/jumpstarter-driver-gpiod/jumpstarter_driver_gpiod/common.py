"""Values that drivers and clients of GPIO lines share."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

EdgeName = Literal["rising", "falling"]
EDGES: Final = ("rising", "falling")

DEFAULT_WAIT: Final = 3600.0
"""Seconds that a wait without a time of its own takes at most."""


class PinState(IntEnum):
    """Logical state of a line: with `active_low`, a line is active when it is low."""

    INACTIVE = 0
    ACTIVE = 1

    def __str__(self) -> str:
        return self.name.lower()
