"""Generated code of the Jumpstarter wire protocol; its modules are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jumpstarter.client.v1 import client_pb2, client_pb2_grpc
    from .jumpstarter.v1 import (
        jumpstarter_pb2,
        jumpstarter_pb2_grpc,
        kubernetes_pb2,
        kubernetes_pb2_grpc,
        router_pb2,
        router_pb2_grpc,
    )

__all__ = [
    "client_pb2",
    "client_pb2_grpc",
    "jumpstarter_pb2",
    "jumpstarter_pb2_grpc",
    "kubernetes_pb2",
    "kubernetes_pb2_grpc",
    "router_pb2",
    "router_pb2_grpc",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = "client.v1" if name.startswith("client_") else "v1"
    return import_module(f".jumpstarter.{package}.{name}", __name__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
