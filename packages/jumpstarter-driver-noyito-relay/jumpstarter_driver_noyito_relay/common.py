"""Values that drivers and clients of relay boards share."""

from __future__ import annotations

from enum import StrEnum


class RelayState(StrEnum):
    """What a board reports for the channels of one driver."""

    ON = "on"
    OFF = "off"
    PARTIAL = "partial"
    """Some of all channels are on."""
    UNKNOWN = "unknown"
