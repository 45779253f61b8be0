"""Errors of leases."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class LeaseError(JumpstarterException):
    """A lease could not be had, or was lost."""


class LeaseTimeoutError(LeaseError, TimeoutError):
    """No exporter became free in time; also caught as the built-in TimeoutError."""
