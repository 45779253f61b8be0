"""Values that the EnerGenie driver and its users share."""

from __future__ import annotations

from jumpstarter.common.exceptions import JumpstarterException


class EnerGenieError(JumpstarterException):
    """The power strip refused something, did not answer, or answered what can't be understood."""
