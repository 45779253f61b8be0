"""The controller's service for clients, and the names of what it tells of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .controller import RPC_TIMEOUT, Calls
from .controller.exporters import ExporterCalls, exporter_page
from .controller.following import FollowingCalls
from .controller.leases import LeaseCalls, lease_page
from .controller.tokens import TokenCalls
from .records import (
    Exporter,
    ExporterList,
    Lease,
    LeaseList,
    WithOptions,
    add_display_columns,
    add_exporter_row,
    parse_client_identifier,
    parse_exporter_identifier,
    parse_identifier,
    parse_lease_identifier,
)

if TYPE_CHECKING:
    import grpc

    from .stub import MultipathExporterStub

__all__ = [
    "RPC_TIMEOUT",
    "ClientService",
    "Exporter",
    "ExporterList",
    "Lease",
    "LeaseList",
    "MultipathExporterStub",
    "WithOptions",
    "add_display_columns",
    "add_exporter_row",
    "parse_client_identifier",
    "parse_exporter_identifier",
    "parse_identifier",
    "parse_lease_identifier",
]


def __getattr__(name: str) -> Any:
    # The models of this module are wanted by commands that never open a channel.
    if name == "MultipathExporterStub":
        from .stub import MultipathExporterStub

        return MultipathExporterStub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(kw_only=True)
class ClientService(ExporterCalls, LeaseCalls, TokenCalls, FollowingCalls):
    """The rpcs of `ClientService`, and of `LabService` where the controller has it, within one namespace.

    Raises, from every method:
        ConnectionError: the controller can't be reached or refuses; of `jumpstarter.common.exceptions`.
        ConfigurationError: an argument can't be sent, or the answer can't be read.
    """

    channel: grpc.aio.Channel
    namespace: str | None
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2_grpc

        self.stub = client_pb2_grpc.ClientServiceStub(self.channel)

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[Calls, None]:
        from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2

        from jumpstarter.common.grpc import translate_grpc_exceptions

        with translate_grpc_exceptions():
            yield Calls(
                stub=self.stub, pb=client_pb2, parent=f"namespaces/{self.namespace or ''}", channel=self.channel
            )

    GetExporter = ExporterCalls.get_exporter
    GetLease = LeaseCalls.get_lease
    CreateLease = LeaseCalls.create_lease
    UpdateLease = LeaseCalls.update_lease
    DeleteLease = LeaseCalls.delete_lease
    RotateToken = TokenCalls.rotate_token

    async def ListExporters(
        self,
        *,
        page_size: int | None = None,
        page_token: str | None = None,
        filter: str | None = None,
        show_hidden_labels: bool = False,
    ) -> ExporterList:
        """Return a page of the exporters that match the label selector `filter`."""
        async with self._calls() as calls:
            return await exporter_page(calls, page_size, page_token, filter, show_hidden_labels)

    async def ListLeases(
        self,
        *,
        page_size: int | None = None,
        page_token: str | None = None,
        filter: str | None = None,
        only_active: bool = True,
        tag_filter: str | None = None,
    ) -> LeaseList:
        """Return a page of the leases whose labels match the label selector `filter`."""
        async with self._calls() as calls:
            return await lease_page(calls, page_size, page_token, filter, only_active, tag_filter)
