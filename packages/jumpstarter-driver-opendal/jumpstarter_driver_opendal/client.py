"""Clients of storage, flashers and storage muxes: the place that drivers and programs name them by."""

from __future__ import annotations

from typing import Any

from .flasher_client import FlasherClient, FlasherClientInterface, MediumLeftAtHost, StorageMuxFlasherClient, one_target
from .mux_client import StorageMuxClient
from .offer import clean_filename, operator_for_path, path_with_query
from .storage_client import OpendalClient, OpendalFile

__all__ = [
    "BytesIOStream",  # noqa: F822 (loaded on demand)
    "FlasherClient",
    "FlasherClientInterface",
    "MediumLeftAtHost",
    "OpendalClient",
    "OpendalFile",
    "StorageMuxClient",
    "StorageMuxFlasherClient",
    "clean_filename",
    "one_target",
    "operator_for_path",
    "path_with_query",
]


def __getattr__(name: str) -> Any:
    if name == "BytesIOStream":
        from .sources import BytesIOStream

        return BytesIOStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
