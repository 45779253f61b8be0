"""Jumpstarter driver that serves files over HTTP to a device."""

from typing import Any

__all__ = ["HttpServer"]


def __getattr__(name: str) -> Any:
    if name == "HttpServer":
        from .driver import HttpServer

        return HttpServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
