"""What a stream token says of its bearer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """A verified token; everything but the stream is empty in tokens of controllers that don't say more."""

    stream: str
    """`sub`: callers with the same one are joined."""
    side: str = ""
    """Which end the bearer is, `client` or `exporter`; two callers of one side are never joined."""
    lease: str = ""
    client: str = ""
    exporter: str = ""
    role: str = ""
    """owner, driver or watcher."""


Verify = Callable[[str], Claims]
"""Returns the claims of a token, or raises `Refused` with UNAUTHENTICATED, as `StreamTokens.verify` does."""
