"""Which failures of calls to the controller may pass, and how long to wait before it is asked again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jumpstarter.common.exceptions import ConnectionError

RETRY_FIRST, RETRY_LONGEST = 0.5, 10.0
"""Seconds before the controller is asked again after it could not be reached, at first and after a while."""

_PASSING = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "RESOURCE_EXHAUSTED"})
"""Names of the statuses after which the same request may succeed."""


def passing(error: ConnectionError) -> bool:
    """Tell whether asking again may help.

    A controller that gives a reason has decided, unless it says that it is not available.
    """
    decided = bool(error.reason) and error.status != "UNAVAILABLE"
    return error.status in _PASSING and not decided and "token is expired" not in error.details.lower()


def pauses() -> Iterator[float]:
    """Return the seconds to wait before one attempt after the other, longer and longer, with jitter."""
    pause = RETRY_FIRST
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(pause * 2, RETRY_LONGEST)
