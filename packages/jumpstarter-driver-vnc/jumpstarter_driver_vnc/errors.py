"""The errors of screens."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class ScreenError(JumpstarterException, RuntimeError):
    """A VNC server can't be understood, refuses, or has no picture; the message says what to do."""


class PasswordNeeded(ScreenError):
    """The VNC server asks for a password that was not given."""
