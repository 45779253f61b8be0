"""What goes wrong between a driver client and its driver."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class DriverError(JumpstarterException):
    """A driver, or the session in front of it, refused or failed a call."""

    hint: str | None = None
    """What to do about it, where that is known."""


class DriverMethodNotImplemented(DriverError, NotImplementedError):
    """The driver has no such exported method, or doesn't implement it."""


class DriverInvalidArgument(DriverError, ValueError):
    """The driver rejected an argument of the call."""


class ExporterNotReady(DriverError):
    """The exporter serves no calls in its present state."""
