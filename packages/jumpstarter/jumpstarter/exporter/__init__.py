"""The exporter's side: serves a tree of drivers to clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import Exporter
    from .session import Session

__all__ = ["Exporter", "Session"]


def __getattr__(name: str) -> Any:
    if name == "Session":
        from .session import Session

        return Session
    if name == "Exporter":
        from .exporter import Exporter

        return Exporter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
