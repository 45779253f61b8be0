"""Errors that the Tasmota driver and its users share."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class TasmotaError(JumpstarterException):
    """The broker refused something, or the plug did not do or tell what it was asked."""


class TasmotaTimeout(TasmotaError, TimeoutError):
    """The broker or the plug did not answer in time."""
