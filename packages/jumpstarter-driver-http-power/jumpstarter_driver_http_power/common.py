"""Errors that the HTTP power driver and its users share."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class HttpPowerError(JumpstarterException):
    """The device refused a request, or did not answer."""


class BadAnswer(HttpPowerError, ValueError):
    """The device answered something else than the exporter config says."""


class NotConfigured(NotImplementedError, ValueError):
    """The exporter config names no request for this; also caught as ValueError, which older releases raised."""
