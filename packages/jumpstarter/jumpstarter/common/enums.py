"""States of an exporter and origins of log lines, as numbers on the wire; needs no protobuf."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

__all__ = ["ExporterStatus", "LogSource"]


class _WireEnum(IntEnum):
    """An enum of `common.proto` whose members leave out the prefix that protobuf style asks for."""

    @classmethod
    def from_proto(cls, value: int) -> Self:
        """Return the member for a number on the wire; a number of a newer peer reads as `UNSPECIFIED` (0)."""
        try:
            return cls(value)
        except ValueError:
            return cls(0)

    def to_proto(self) -> Any:
        """Return the number on the wire; it may be assigned to a field of a message."""
        return self.value

    def __str__(self) -> str:
        return self.name


class ExporterStatus(_WireEnum):
    """What an exporter is doing, `jumpstarter.v1.ExporterStatus` on the wire."""

    UNSPECIFIED = 0
    """Not told, as by exporters that don't report their status."""
    OFFLINE = 1
    """Not connected, or about to go."""
    AVAILABLE = 2
    """Connected and not leased."""
    BEFORE_LEASE_HOOK = 3
    """Leased; the hook that prepares the device is running."""
    LEASE_READY = 4
    """Leased and open to calls."""
    AFTER_LEASE_HOOK = 5
    """The lease has ended; the hook that cleans up is running."""
    BEFORE_LEASE_HOOK_FAILED = 6
    """The hook that prepares the device failed."""
    AFTER_LEASE_HOOK_FAILED = 7
    """The hook that cleans up failed."""


class LogSource(_WireEnum):
    """Where a log line comes from, `jumpstarter.v1.LogSource` on the wire."""

    UNSPECIFIED = 0
    DRIVER = 1
    BEFORE_LEASE_HOOK = 2
    AFTER_LEASE_HOOK = 3
    SYSTEM = 4
