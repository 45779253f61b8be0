"""The error of video sources."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class VideoError(JumpstarterException, RuntimeError):
    """A camera can't be reached, delivers nothing, or something that is no picture; the message says what to do."""
