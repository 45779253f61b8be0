"""Why a request was refused, in words for the user and in words for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

DOMAIN = "jumpstarter.dev"
"""Domain of the reasons, as `google.rpc.ErrorInfo` has one."""


class Code(Enum):
    """A gRPC status by its number, so that the rules need no gRPC."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(eq=False)
class Refused(Exception):
    """A request can't be met; nothing was changed.

    The code and the words of the message are what published peers match on, see the places that raise it; programs of
    ours read the reason.
    """

    code: Code
    reason: str
    """A stable word in UPPER_SNAKE_CASE, such as NO_ACCESS."""
    message: str
    """What failed, on what, why, and what to do next, in one sentence or two."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message
