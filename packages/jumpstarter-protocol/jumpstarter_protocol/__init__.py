"""Generated code of the Jumpstarter wire protocol; its modules are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jumpstarter.admin.v1 import admin_pb2, admin_pb2_grpc
    from .jumpstarter.client.v1 import client_pb2, client_pb2_grpc
    from .jumpstarter.lab.v1 import lab_pb2, lab_pb2_grpc, peer_pb2, peer_pb2_grpc
    from .jumpstarter.v1 import (
        jumpstarter_pb2,
        jumpstarter_pb2_grpc,
        kubernetes_pb2,
        kubernetes_pb2_grpc,
        router_pb2,
        router_pb2_grpc,
    )

__all__ = [
    "admin_pb2",
    "admin_pb2_grpc",
    "client_pb2",
    "client_pb2_grpc",
    "jumpstarter_pb2",
    "jumpstarter_pb2_grpc",
    "kubernetes_pb2",
    "kubernetes_pb2_grpc",
    "lab_pb2",
    "lab_pb2_grpc",
    "peer_pb2",
    "peer_pb2_grpc",
    "router_pb2",
    "router_pb2_grpc",
]


_PACKAGES = {"admin": "admin.v1", "client": "client.v1", "lab": "lab.v1", "peer": "lab.v1"}


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    first = name.partition("_")[0]
    package = _PACKAGES.get(first, "v1")
    return import_module(f".jumpstarter.{package}.{name}", __name__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
