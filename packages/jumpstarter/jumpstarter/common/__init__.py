"""Values and helpers that clients and exporters share; the names below are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .enums import ExporterStatus, LogSource
    from .fls import download_fls, get_fls_binary, get_fls_github_url
    from .metadata import Metadata
    from .tempfile import TemporarySocket, TemporaryTcpListener, TemporaryUnixListener
    from .types import AsyncChannel, ControllerStub, ExporterStub, RouterStub

HOOK_WARNING_PREFIX = "[HOOK_WARNING] "
"""Opens the status message of an exporter whose hook failed but may be ignored; the rest is shown as a warning."""

_PLACES = {
    "AsyncChannel": "types",
    "ControllerStub": "types",
    "ExporterStatus": "enums",
    "ExporterStub": "types",
    "LogSource": "enums",
    "Metadata": "metadata",
    "RouterStub": "types",
    "TemporarySocket": "tempfile",
    "TemporaryTcpListener": "tempfile",
    "TemporaryUnixListener": "tempfile",
    "download_fls": "fls",
    "get_fls_binary": "fls",
    "get_fls_github_url": "fls",
}

__all__ = [
    "HOOK_WARNING_PREFIX",
    "AsyncChannel",
    "ControllerStub",
    "ExporterStatus",
    "ExporterStub",
    "LogSource",
    "Metadata",
    "RouterStub",
    "TemporarySocket",
    "TemporaryTcpListener",
    "TemporaryUnixListener",
    "download_fls",
    "get_fls_binary",
    "get_fls_github_url",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
