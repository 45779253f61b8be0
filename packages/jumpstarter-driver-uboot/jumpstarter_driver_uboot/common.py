"""What both sides of the U-Boot driver know: the key that stops autoboot, and what DHCP gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .dhcp import DhcpInfo

__all__ = ["ESC", "DhcpInfo"]

ESC: Final = "\x1b"
"""The Escape key, which stops autoboot as any key does, and which few boot loaders before U-Boot act on."""


def __getattr__(name: str) -> Any:
    if name == "DhcpInfo":
        from .dhcp import DhcpInfo

        return DhcpInfo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
