"""The client's side: driver clients, and how to reach an exporter."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import DriverClient
    from .client import client_from_path
    from .flasher import FlasherClient, FlasherClientInterface
    from .lease import DirectLease, Lease

__all__ = ["DirectLease", "DriverClient", "FlasherClient", "FlasherClientInterface", "Lease", "client_from_path"]

_HOMES = {
    "DirectLease": "lease",
    "DriverClient": "base",
    "FlasherClient": "flasher",
    "FlasherClientInterface": "flasher",
    "Lease": "lease",
    "client_from_path": "client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
