"""Values that drivers and clients of pins share."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

DEFAULT_WAIT: Final = 3600.0
"""Seconds that a wait without a time of its own takes at most."""


class PinState(IntEnum):
    """Logical state of a pin."""

    INACTIVE = 0
    ACTIVE = 1

    def __str__(self) -> str:
        return self.name.lower()
