"""What the controllers of a lab ask of each other: dials, and what only one of them sees."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import grpc
from jumpstarter_protocol import jumpstarter_pb2, peer_pb2, peer_pb2_grpc

from ..errors import Code, Refused
from ..identity.certificates import Issued, ServerCertificates
from ..listening import Keepalive, bind, join_address, split_address
from ..model.records import Key, Kind
from ..services.errors import DETAILS_KEY, Said, abort
from .passes import Passes

if TYPE_CHECKING:
    from ..clock import Clock
    from ..identity.authority import Authority
    from ..lab import Lab
    from ..services.switchboard import Switchboard

logger = logging.getLogger(__name__)

HOST = "jumpstarter-peer"
"""The name in the certificates that controllers show each other."""

REPORT_INTERVAL = timedelta(seconds=10)
"""Between two reports of what is waited for; well within the grace time of pending leases."""

USE_INTERVAL = 1.0
"""Seconds for which leases in use are gathered before they are reported."""

TIMEOUT = 5.0
"""Seconds that another controller may take for a report."""

MOST_KEYS = 100_000


class PeerService(peer_pb2_grpc.PeerServiceServicer):
    """Serves the other controllers."""

    def __init__(self, lab: Lab, switchboard: Switchboard, passes: Passes) -> None:
        self._lab = lab
        self._switchboard = switchboard
        self._passes = passes

    async def Dial(self, request: Any, context: Any) -> Any:
        """Dial when the exporter listens here, or say that it doesn't."""
        await self._passes.check(context)
        lease = Key(Kind.LEASE, request.namespace, request.lease)
        patience = min(request.patience_ms / 1000, self._switchboard.listener_patience)
        if not await self._switchboard.when_listening(lease, patience):
            return peer_pb2.PeerDialResponse()
        try:
            answer = await self._switchboard.dial_here(Key(Kind.CLIENT, request.namespace, request.client), lease)
        except Refused as refused:
            await abort(context, refused)
        return peer_pb2.PeerDialResponse(
            listening=True, router_endpoint=answer.router_endpoint, router_token=answer.router_token
        )

    async def Report(self, request: Any, context: Any) -> Any:
        """Take note of what another controller sees."""
        await self._passes.check(context)
        self._lab.reported(_keys(request.used), _keys(request.waiting))
        return peer_pb2.PeerReportResponse()


class Peers:
    """The other controllers, as this one asks them.

    Args:
        others: returns their addresses by identity.
        leader: returns who decides.
    """

    def __init__(
        self,
        lab: Lab,
        authority: Authority,
        passes: Passes,
        others: Callable[[], Mapping[str, str]],
        leader: Callable[[], str],
    ) -> None:
        self._lab = lab
        self._passes = passes
        self._others = others
        self._leader = leader
        self._credentials = grpc.ssl_channel_credentials(authority.certificate)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._former: list[grpc.aio.Channel] = []
        """To controllers that are gone."""
        self._used: set[Key] = set()
        self._use = anyio.Event()

    # -- dials -------------------------------------------------------------------------------------

    async def dial(self, client: Key, lease: Key, patience: float) -> jumpstarter_pb2.DialResponse | None:
        """Have the controller dial at which the exporter of a lease listens; None when there is none in time.

        Raises:
            Refused: what that controller says.
        """
        others = self._others()
        if not others:
            return None
        found: list[jumpstarter_pb2.DialResponse | Refused] = []

        async def ask(address: str) -> None:
            try:
                answer = await self._dial(address, client, lease, patience)
            except Refused as refused:
                found.append(refused)
            else:
                if answer is None:
                    return
                found.append(answer)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for address in others.values():
                tasks.start_soon(ask, address)
        if not found:
            return None
        if isinstance(found[0], Refused):
            raise found[0]
        return found[0]

    async def _dial(
        self, address: str, client: Key, lease: Key, patience: float
    ) -> jumpstarter_pb2.DialResponse | None:
        request = peer_pb2.PeerDialRequest(
            namespace=lease.namespace, client=client.name, lease=lease.name, patience_ms=round(patience * 1000)
        )
        try:
            # A dial may wait for the exporter to get ready.
            answer = await self._stub(address).Dial(request, timeout=patience + 30, metadata=self._passes.metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and not _told(error):
                logger.info("the controller at %s can't be asked: %s", address, error.details())
                return None
            raise _refused(error) from error
        if not answer.listening:
            return None
        return jumpstarter_pb2.DialResponse(router_endpoint=answer.router_endpoint, router_token=answer.router_token)

    # -- reports -----------------------------------------------------------------------------------

    def tell_used(self, lease: Key) -> None:
        """Have the controller that decides know soon that a lease is used."""
        if len(self._used) < MOST_KEYS:
            self._used.add(lease)
            self._use.set()

    async def run(self) -> None:
        """Report to the controller that decides, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report_use)
            while True:
                await self._report((), self._lab.waited_for())
                while self._former:
                    await self._former.pop().close()
                await anyio.sleep(REPORT_INTERVAL.total_seconds())

    async def _report_use(self) -> None:
        while True:
            await self._use.wait()
            self._use = anyio.Event()
            used, self._used = self._used, set()
            await self._report(used, ())
            await anyio.sleep(USE_INTERVAL)

    async def _report(self, used: Iterable[Key], waiting: Iterable[Key]) -> None:
        address = self._others().get(self._leader())
        request = peer_pb2.PeerReportRequest(used=_texts(used), waiting=_texts(waiting))
        if address is None or not (request.used or request.waiting):
            return
        try:
            await self._stub(address).Report(request, timeout=TIMEOUT, metadata=self._passes.metadata())
        except grpc.aio.AioRpcError as error:
            logger.info("the controller that decides can't be told what is used: %s", error.details())

    # -- connections -------------------------------------------------------------------------------

    def _stub(self, address: str) -> Any:
        for gone in self._channels.keys() - set(self._others().values()) - {address}:
            self._former.append(self._channels.pop(gone))
        if address not in self._channels:
            options = [
                ("grpc.ssl_target_name_override", HOST),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.http2.ping_timeout_ms", 5_000),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            self._channels[address] = grpc.aio.secure_channel(address, self._credentials, options=options)
        return peer_pb2_grpc.PeerServiceStub(self._channels[address])

    async def close(self) -> None:
        """End all connections."""
        for channel in (*self._channels.values(), *self._former):
            await channel.close()
        self._channels.clear()
        self._former.clear()


@asynccontextmanager
async def serving_peers(
    service: PeerService, authority: Authority, clock: Clock, listen: str, endpoint: str
) -> AsyncGenerator[str, None]:
    """Serve the other controllers while the body runs; yields the address at which they reach this one.

    Raises:
        ConfigurationError: the address can't be listened on.
    """
    certificates = ServerCertificates(Issued(authority, [HOST], clock))
    server = grpc.aio.server(options=Keepalive().options())
    peer_pb2_grpc.add_PeerServiceServicer_to_server(service, server)
    port = bind(server, listen, certificates.grpc_credentials())
    await server.start()
    try:
        yield endpoint or join_address(split_address(listen)[0], port)
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(0)


def _texts(keys: Iterable[Key]) -> list[str]:
    return [f"{key.namespace}/{key.name}" for key in keys]


def _keys(texts: Iterable[str]) -> list[Key]:
    found = []
    for text in texts:
        namespace, _, name = text.partition("/")
        found.append(Key(Kind.LEASE, namespace, name))
    return found


def _told(error: grpc.aio.AioRpcError) -> bool:
    """Return whether a status comes from the other controller itself, and not from the way to it."""
    return any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    """Return what another controller said, to be said in the same words."""
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    info = ErrorInfo(reason="PEER")
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            status = Status.FromString(value)
            if status.details:
                status.details[0].Unpack(info)
    return Said(Code[error.code().name], info.reason, error.details() or "", dict(info.metadata))
