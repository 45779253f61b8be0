"""CAN buses and ISO-TP; the driver classes can be had from here as well, as exporter configs may name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import Can, IsoTpPython, IsoTpSocket

__all__ = ["Can", "IsoTpPython", "IsoTpSocket"]


def __getattr__(name: str) -> Any:
    # Clients import this package too, and must not wait for python-can.
    if name in __all__:
        from . import driver

        return getattr(driver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
