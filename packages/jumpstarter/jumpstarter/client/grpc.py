"""The controller's service for clients, and the names of what it tells of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jumpstarter.common.cancellation import answer

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
    from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2

    from .stub import MultipathExporterStub

__all__ = [
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

RPC_TIMEOUT = 60.0
"""Seconds that the controller may take to answer."""


def __getattr__(name: str) -> Any:
    # The models of this module are wanted by commands that never open a channel.
    if name == "MultipathExporterStub":
        from .stub import MultipathExporterStub

        return MultipathExporterStub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(kw_only=True)
class ClientService:
    """The rpcs of `jumpstarter.client.v1.ClientService`, within one namespace.

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
    async def _protocol(self) -> AsyncGenerator[Any, None]:
        """Yield the messages of the service; errors of the call are translated."""
        from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2

        from jumpstarter.common.grpc import translate_grpc_exceptions

        with translate_grpc_exceptions():
            yield client_pb2

    @property
    def _parent(self) -> str:
        return f"namespaces/{self.namespace or ''}"

    async def GetExporter(self, *, name: str, show_hidden_labels: bool = False) -> Exporter:
        """Return one exporter."""
        async with self._protocol() as pb:
            request = pb.GetExporterRequest(
                name=f"{self._parent}/exporters/{name}", show_hidden_labels=show_hidden_labels
            )
            return Exporter.from_protobuf(await answer(self.stub.GetExporter(request, timeout=RPC_TIMEOUT)))

    async def ListExporters(
        self,
        *,
        page_size: int | None = None,
        page_token: str | None = None,
        filter: str | None = None,
        show_hidden_labels: bool = False,
    ) -> ExporterList:
        """Return a page of the exporters that match the label selector `filter`."""
        async with self._protocol() as pb:
            request = pb.ListExportersRequest(
                parent=self._parent,
                page_size=page_size or 0,
                page_token=page_token or "",
                filter=filter or "",
                show_hidden_labels=show_hidden_labels,
            )
            return ExporterList.from_protobuf(await answer(self.stub.ListExporters(request, timeout=RPC_TIMEOUT)))

    async def GetLease(self, *, name: str) -> Lease:
        """Return one lease."""
        async with self._protocol() as pb:
            request = pb.GetLeaseRequest(name=f"{self._parent}/leases/{name}")
            return Lease.from_protobuf(await answer(self.stub.GetLease(request, timeout=RPC_TIMEOUT)))

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
        async with self._protocol() as pb:
            request = pb.ListLeasesRequest(
                parent=self._parent,
                page_size=page_size or 0,
                page_token=page_token or "",
                filter=filter or "",
                only_active=only_active,
                tag_filter=tag_filter or "",
            )
            return LeaseList.from_protobuf(await answer(self.stub.ListLeases(request, timeout=RPC_TIMEOUT)))

    async def CreateLease(
        self,
        *,
        duration: timedelta,
        selector: str | None = None,
        exporter_name: str | None = None,
        begin_time: datetime | None = None,
        lease_id: str | None = None,
        tags: dict[str, str] | None = None,
        allow_disabled: bool = False,
    ) -> Lease:
        """Ask for a lease; it may have to wait for its exporter."""
        async with self._protocol() as pb:
            lease = pb.Lease(selector=selector or "", tags=tags or {}, allow_disabled=allow_disabled)
            lease.duration.FromTimedelta(duration)
            if exporter_name:
                lease.exporter_name = exporter_name
            if begin_time is not None:
                lease.begin_time.FromDatetime(begin_time.astimezone(UTC))
            request = pb.CreateLeaseRequest(parent=self._parent, lease_id=lease_id or "", lease=lease)
            return Lease.from_protobuf(await answer(self.stub.CreateLease(request, timeout=RPC_TIMEOUT)))

    async def UpdateLease(
        self,
        *,
        name: str,
        duration: timedelta | None = None,
        begin_time: datetime | None = None,
        client: str | None = None,
    ) -> Lease:
        """Change duration, begin or owner of a lease.

        Raises:
            ValueError: nothing to change is given.
        """
        if duration is None and begin_time is None and client is None:
            raise ValueError("nothing to update: give at least one of duration, begin_time and client")
        async with self._protocol() as pb:
            request = pb.UpdateLeaseRequest()
            request.lease.name = f"{self._parent}/leases/{name}"
            # Names go into the mask directly: its JSON form, which `FromJsonString` reads, knows no underscore.
            if duration is not None:
                request.lease.duration.FromTimedelta(duration)
                request.update_mask.paths.append("duration")
            if begin_time is not None:
                request.lease.begin_time.FromDatetime(begin_time.astimezone(UTC))
                request.update_mask.paths.append("begin_time")
            if client is not None:
                request.lease.client = client if "/" in client else f"{self._parent}/clients/{client}"
                request.update_mask.paths.append("client")
            return Lease.from_protobuf(await answer(self.stub.UpdateLease(request, timeout=RPC_TIMEOUT)))

    async def DeleteLease(self, *, name: str) -> None:
        """End a lease."""
        async with self._protocol() as pb:
            await answer(
                self.stub.DeleteLease(pb.DeleteLeaseRequest(name=f"{self._parent}/leases/{name}"), timeout=RPC_TIMEOUT)
            )

    async def RotateToken(self) -> client_pb2.RotateTokenResponse:
        """Return a new token of the calling client, and when it expires."""
        async with self._protocol() as pb:
            response: client_pb2.RotateTokenResponse = await answer(
                self.stub.RotateToken(pb.RotateTokenRequest(parent=self._parent), timeout=RPC_TIMEOUT)
            )
            return response
