"""Adds the services to a gRPC server: those of the lab, health, and reflection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio  # type: ignore[import-untyped]
from jumpstarter_protocol import admin_pb2, client_pb2, jumpstarter_pb2, lab_pb2, router_pb2

from .admin import AdminService
from .client import ClientService
from .controller import ControllerService, StatusStreams
from .convert import Messages
from .lab import LabService
from .rpc import Guard

if TYPE_CHECKING:
    from ..identity.certifying import RouterCertificates
    from ..identity.tokens import Tokens
    from ..lab import Lab
    from ..router.pool import RouterPool
    from .switchboard import Switchboard

SERVICES = {
    "ControllerService": jumpstarter_pb2,
    "ClientService": client_pb2,
    "LabService": lab_pb2,
    "AdminService": admin_pb2,
}
"""Services of the lab, and the modules that describe them."""

DESCRIPTORS = tuple(module.DESCRIPTOR.services_by_name[name] for name, module in SERVICES.items())
ROUTER_NAME = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the services work with."""

    lab: Lab
    tokens: Tokens
    switchboard: Switchboard
    routers: RouterPool
    certificates: RouterCertificates
    version: str
    endpoint: str
    ca: str


def add_services(server: grpc.aio.Server, guard: Guard, parts: Parts) -> None:
    """Add the services of the lab to a server."""
    messages, statuses = Messages(parts.lab.settings), StatusStreams()
    servicers = {
        "ControllerService": ControllerService(parts.lab, parts.switchboard, statuses),
        "ClientService": ClientService(parts.lab, messages, statuses, parts.tokens),
        "LabService": LabService(parts.lab, messages, parts.routers, parts.switchboard, parts.certificates),
        "AdminService": AdminService(
            parts.lab, messages, statuses, parts.tokens, parts.routers, parts.version, parts.endpoint, parts.ca
        ),
    }
    server.add_generic_rpc_handlers(
        tuple(guard.handlers(descriptor, servicers[descriptor.name]) for descriptor in DESCRIPTORS)
    )


class Health:
    """`grpc.health.v1.Health`, for everybody: of the server as a whole and of each service."""

    def __init__(self, *servers: grpc.aio.Server) -> None:
        self._servicer = health_aio.HealthServicer()
        for server in dict.fromkeys(servers):
            health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, *, ready: bool) -> None:
        """Say whether requests are served."""
        states = health_pb2.HealthCheckResponse
        for name in ("", *(descriptor.full_name for descriptor in DESCRIPTORS), ROUTER_NAME):
            await self._servicer.set(name, states.SERVING if ready else states.NOT_SERVING)


def add_reflection(server: grpc.aio.Server) -> None:
    """Have a server tell what its services are like, to everybody."""
    from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

    names = [*(descriptor.full_name for descriptor in DESCRIPTORS), ROUTER_NAME, "grpc.health.v1.Health"]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
