"""Other servers of the same lab, as far as the engine has to know of them."""

from __future__ import annotations

from typing import Protocol

from ..model.records import Key


class Neighbours(Protocol):
    """The servers that share the store; a lab of one server has none."""

    @property
    def identity(self) -> str:
        """The name of this server."""
        ...

    def alive(self, identity: str) -> bool:
        """Return whether another server is there."""
        ...

    def tell_used(self, lease: Key) -> None:
        """Have the one that decides know that a lease is used; never waits."""
        ...
