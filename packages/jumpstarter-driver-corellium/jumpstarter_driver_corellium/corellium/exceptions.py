"""The error of Corellium's REST interface."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class CorelliumApiException(JumpstarterException):
    """The service refused a request, did not answer, or answered what can't be understood."""
