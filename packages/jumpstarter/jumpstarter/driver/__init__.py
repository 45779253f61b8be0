"""What a driver author writes against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Driver
from .decorators import export, exportstream

if TYPE_CHECKING:
    from .flasher import FlasherInterface

__all__ = ["Driver", "FlasherInterface", "export", "exportstream"]


def __getattr__(name: str) -> Any:
    if name == "FlasherInterface":
        from .flasher import FlasherInterface

        return FlasherInterface
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
