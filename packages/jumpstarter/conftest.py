"""A controller and a router for tests: real gRPC services over TLS on loopback, with a memory instead of a store."""

from __future__ import annotations

import base64
import datetime
import inspect
import ipaddress
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import grpc
import pytest
from anyio import Event, create_memory_object_stream, create_task_group
from anyio.from_thread import BlockingPortal, start_blocking_portal
from google.protobuf import empty_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from jumpstarter_protocol import (
    client_pb2,
    client_pb2_grpc,
    jumpstarter_pb2,
    jumpstarter_pb2_grpc,
    kubernetes_pb2,
    lab_pb2,
    lab_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)
from jumpstarter_testbench.requirements import need_module

NAMESPACE = "lab"
BUFFER = 32
TIMEOUT = 10


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for loopback and its key, in PEM."""

    chain: bytes
    key: bytes

    @property
    def ca(self) -> str:
        """The certificate as the `tls.ca` member of a config."""
        return base64.b64encode(self.chain).decode()


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    need_module("cryptography", "cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    chain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        chain=chain.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def refusal(code: grpc.StatusCode, text: str, reason: str) -> tuple[grpc.StatusCode, str, Any]:
    """Return the arguments of `abort` for an error with a reason, as our servers give it."""
    status = Status(code=code.value[0], message=text)
    status.details.add().Pack(ErrorInfo(reason=reason))
    return code, text, (("grpc-status-details-bin", status.SerializeToString()),)


class MockRouter(router_pb2_grpc.RouterServiceServicer):
    """Pairs two callers that send the same authorization and relays their frames one to one."""

    def __init__(self) -> None:
        self.waiting: dict[str, Any] = {}
        self.paired = 0
        self.lose = 0
        """Callers to lose before their other end has come."""
        self.used: set[str] = set()
        """Tokens to refuse as used, in the way of our routers."""

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        authorization = dict(context.invocation_metadata()).get("authorization", "")
        if not authorization.startswith("Bearer "):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bearer token is needed")
        if self.lose:
            self.lose -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if authorization.removeprefix("Bearer ") in self.used:
            await context.abort(*refusal(grpc.StatusCode.UNAUTHENTICATED, "used already", "STREAM_TOKEN_USED"))
        other = self.waiting.pop(authorization, None)
        if other is not None:
            self.paired += 1
            peer, done, gone = other
            try:
                async with create_task_group() as tg:

                    async def end_with_peer() -> None:
                        await gone.wait()
                        tg.cancel_scope.cancel()

                    async def both() -> None:
                        async with create_task_group() as directions:
                            directions.start_soon(self._relay, context, peer)
                            directions.start_soon(self._relay, peer, context)
                        tg.cancel_scope.cancel()

                    tg.start_soon(end_with_peer)
                    tg.start_soon(both)
            finally:
                done.set()
            return
        done, gone = Event(), Event()
        self.waiting[authorization] = (context, done, gone)
        try:
            await done.wait()
        finally:
            gone.set()
            self.waiting.pop(authorization, None)

    @staticmethod
    async def _relay(source: Any, sink: Any) -> None:
        while True:
            frame = await source.read()
            if frame is grpc.aio.EOF:
                return
            await sink.write(router_pb2.StreamResponse(payload=frame.payload, frame_type=frame.frame_type))
            if frame.frame_type == router_pb2.FRAME_TYPE_GOAWAY:
                return


@dataclass
class Faults:
    """What goes wrong: answers to give instead of the right ones, and calls to keep waiting."""

    calls: Counter[str] = field(default_factory=Counter)
    refuse: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    """Errors for the next calls of a method, one each, as arguments of `abort`."""
    hold: dict[str, Event] = field(default_factory=dict)
    """Calls of a method wait for the event, after they took effect."""
    lose: set[str] = field(default_factory=set)
    """Calls of a method take effect, and answer UNAVAILABLE."""

    def refuse_for(self, name: str, code: grpc.StatusCode, text: str, reason: str) -> None:
        """Have the next call of a method refused with a reason."""
        self.refuse[name].append(refusal(code, text, reason))

    async def enter(self, name: str, context: Any) -> None:
        self.calls[name] += 1
        if self.refuse[name]:
            await context.abort(*self.refuse[name].pop(0))

    async def leave(self, name: str, context: Any) -> None:
        if name in self.hold:
            await self.hold[name].wait()
        if name in self.lose:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer got lost")


@dataclass
class Board:
    """An exporter as the controller knows it."""

    name: str
    labels: dict[str, str]
    online: bool = True
    enabled: bool = True
    lease: str | None = None
    listener: Any = None
    status: int = 0
    """A status that is told; 0 for what follows from the rest."""
    changed: Event = field(default_factory=Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = Event()


class MockController(jumpstarter_pb2_grpc.ControllerServiceServicer, client_pb2_grpc.ClientServiceServicer):
    """Grants leases of boards to clients, in the order of the requests, and tells both sides how to meet."""

    def __init__(self, router_endpoint: str, faults: Faults | None = None) -> None:
        self.router_endpoint = router_endpoint
        self.faults = faults or Faults()
        self.tokens: dict[str, str] = {"alice-token": "alice", "bob-token": "bob"}
        self.boards: dict[str, Board] = {}
        self.leases: dict[str, client_pb2.Lease] = {}
        self.registered: dict[str, Any] = {}
        self.unregistered: list[str] = []
        self.reported: list[Any] = []
        """The statuses that exporters reported."""
        self.news = Event()
        """Set and replaced when an exporter said something."""
        self.dials = 0
        self.ahead = datetime.timedelta(0)
        """How much the clock of the controller is ahead."""
        self.tells_roles = False
        """Whether stream tokens say whose stream it is."""
        self.shares: dict[str, dict[str, int]] = defaultdict(dict)
        """Roles of other clients by lease."""
        self.moved = Event()
        """Set and replaced when a lease or a board has changed."""
        self.canonical: Callable[[str], str] = lambda selector: ",".join(sorted(selector.split(",")))

    # -- state -----------------------------------------------------------------------------------

    def add(self, name: str, **labels: str) -> Board:
        board = self.boards[name] = Board(name, labels)
        self.schedule()
        self.touch()
        return board

    def touch(self) -> None:
        """Tell all who watch that something has changed."""
        self.moved.set()
        self.moved = Event()

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.ahead

    def active(self) -> list[str]:
        return [name for name, lease in self.leases.items() if not lease.HasField("effective_end_time")]

    def schedule(self) -> None:
        for name in self.active():
            lease = self.leases[name]
            if lease.HasField("exporter"):
                continue
            matching = [
                board
                for board in self.boards.values()
                if (lease.exporter_name in ("", board.name)) and self._matches(board, lease.selector)
            ]
            free = next((board for board in matching if board.lease is None and board.online), None)
            if free is not None:
                free.lease = name
                lease.exporter = f"namespaces/{NAMESPACE}/exporters/{free.name}"
                lease.effective_begin_time.FromDatetime(self.now())
                self._condition(lease, "Pending", "False", "Ready", "")
                self._condition(lease, "Ready", "True", "Ready", "")
                free.notify()
        self.touch()

    @staticmethod
    def _matches(board: Board, selector: str) -> bool:
        return all(
            board.labels.get(key) == value
            for key, _, value in (part.partition("=") for part in selector.split(",") if part)
        )

    @staticmethod
    def _condition(lease: Any, kind: str, status: str, reason: str, message: str) -> None:
        kept = [condition for condition in lease.conditions if condition.type != kind]
        del lease.conditions[:]
        lease.conditions.extend(kept)
        lease.conditions.append(kubernetes_pb2.Condition(type=kind, status=status, reason=reason, message=message))

    def end(self, name: str, reason: str = "Released") -> None:
        lease = self.leases[name]
        lease.effective_end_time.FromDatetime(self.now())
        self._condition(lease, "Ready", "False", reason, f"the lease is {reason.lower()}")
        for board in self.boards.values():
            if board.lease == name:
                # Who listened for this lease must not be sent the callers of the next one.
                board.lease = board.listener = None
                board.notify()
        self.schedule()

    # -- who calls -------------------------------------------------------------------------------

    async def _client(self, context: Any) -> str:
        metadata = dict(context.invocation_metadata())
        name = self.tokens.get(metadata.get("authorization", "").removeprefix("Bearer "))
        if name is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is not valid")
        said = (
            metadata.get("jumpstarter-kind"),
            metadata.get("jumpstarter-namespace"),
            metadata.get("jumpstarter-name"),
        )
        if said != ("Client", NAMESPACE, name):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the token is not that of {said}")
        return str(name)

    def _board(self, context: Any) -> Board:
        name = dict(context.invocation_metadata())["jumpstarter-name"]
        return self.boards[name]

    async def _owned(self, name: str, context: Any, shared: bool = False) -> client_pb2.Lease:
        client = await self._client(context)
        lease = self.leases.get(name.rpartition("/")[2])
        if lease is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"lease {name} not found")
        if shared and client in self.shares[name]:
            return lease
        if lease.client.rpartition("/")[2] != client:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "permission denied")
        return lease

    # -- ClientService ---------------------------------------------------------------------------

    async def CreateLease(self, request: Any, context: Any) -> Any:
        await self.faults.enter("CreateLease", context)
        client = await self._client(context)
        name = request.lease_id or f"lease-{len(self.leases)}"
        if name in self.leases:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"lease {name} exists")
        lease = client_pb2.Lease()
        lease.CopyFrom(request.lease)
        lease.name = f"{request.parent}/leases/{name}"
        lease.client = f"{request.parent}/clients/{client}"
        lease.selector = self.canonical(lease.selector)
        self._condition(lease, "Pending", "True", "NotAvailable", "all boards are in use")
        self.leases[name] = lease
        self.schedule()
        await self.faults.leave("CreateLease", context)
        return lease

    async def GetLease(self, request: Any, context: Any) -> Any:
        await self.faults.enter("GetLease", context)
        await self._client(context)
        lease = self.leases.get(request.name.rpartition("/")[2])
        if lease is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"lease {request.name} not found")
        return lease

    async def ListLeases(self, request: Any, context: Any) -> Any:
        await self.faults.enter("ListLeases", context)
        await self._client(context)
        found = [
            lease
            for name, lease in self.leases.items()
            if name in self.active() or (request.HasField("only_active") and not request.only_active)
        ]
        items, token = self._page(found, request)
        return client_pb2.ListLeasesResponse(leases=items, next_page_token=token)

    @staticmethod
    def _page(items: list[Any], request: Any) -> tuple[list[Any], str]:
        start = int(request.page_token or 0)
        end = start + (request.page_size or len(items))
        return items[start:end], str(end) if end < len(items) else ""

    def _exporter(self, board: Board) -> Any:
        return client_pb2.Exporter(
            name=f"namespaces/{NAMESPACE}/exporters/{board.name}",
            labels=board.labels,
            online=board.online,
            enabled=board.enabled,
            status=board.status or (4 if board.lease else 2),
        )

    async def GetExporter(self, request: Any, context: Any) -> Any:
        await self.faults.enter("GetExporter", context)
        await self._client(context)
        return self._exporter(self.boards[request.name.rpartition("/")[2]])

    async def ListExporters(self, request: Any, context: Any) -> Any:
        await self.faults.enter("ListExporters", context)
        await self._client(context)
        found = [self._exporter(board) for board in self.boards.values() if self._matches(board, request.filter)]
        items, token = self._page(found, request)
        return client_pb2.ListExportersResponse(exporters=items, next_page_token=token)

    async def UpdateLease(self, request: Any, context: Any) -> Any:
        await self.faults.enter("UpdateLease", context)
        lease = await self._owned(request.lease.name, context)
        for path in request.update_mask.paths:
            if path == "client":
                lease.client = request.lease.client
            else:
                getattr(lease, path).CopyFrom(getattr(request.lease, path))
        self.touch()
        return lease

    async def DeleteLease(self, request: Any, context: Any) -> Any:
        await self.faults.enter("DeleteLease", context)
        await self._owned(request.name, context)
        name = request.name.rpartition("/")[2]
        if name not in self.active():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "lease has ended")
        self.end(name)
        await self.faults.leave("DeleteLease", context)
        return empty_pb2.Empty()

    async def RotateToken(self, request: Any, context: Any) -> Any:
        client = await self._client(context)
        response = client_pb2.RotateTokenResponse(token=f"{client}-token-{len(self.tokens)}")
        response.expiry.FromDatetime(self.now() + datetime.timedelta(days=1))
        self.tokens[response.token] = client
        return response

    # -- ControllerService -----------------------------------------------------------------------

    async def Register(self, request: Any, context: Any) -> Any:
        await self.faults.enter("Register", context)
        name = dict(context.invocation_metadata())["jumpstarter-name"]
        self.registered[name] = request
        self.boards.setdefault(name, Board(name, dict(request.labels)))
        self.schedule()
        self._tell()
        return jumpstarter_pb2.RegisterResponse(uuid=name)

    async def Unregister(self, request: Any, context: Any) -> Any:
        self.unregistered.append(dict(context.invocation_metadata())["jumpstarter-name"])
        self._tell()
        await self.faults.leave("Unregister", context)
        return jumpstarter_pb2.UnregisterResponse()

    def _tell(self) -> None:
        self.news.set()
        self.news = Event()

    async def ReportStatus(self, request: Any, context: Any) -> Any:
        await self.faults.enter("ReportStatus", context)
        self.reported.append(request)
        board = self._board(context)
        if request.release_lease and board.lease is not None:
            self.end(board.lease)
        self._tell()
        return jumpstarter_pb2.ReportStatusResponse()

    async def ReleaseLease(self, request: Any, context: Any) -> Any:
        await self.faults.enter("ReleaseLease", context)
        if self._board(context).lease == request.name:
            self.end(request.name)
        self._tell()
        return jumpstarter_pb2.ReleaseLeaseResponse()

    async def Status(self, request: Any, context: Any) -> AsyncIterator[Any]:
        board = self._board(context)
        while True:
            changed = board.changed
            if self.faults.refuse["Status"]:
                await self.faults.enter("Status", context)
            if board.lease is None:
                yield jumpstarter_pb2.StatusResponse(leased=False)
            else:
                client = self.leases[board.lease].client.rpartition("/")[2]
                yield jumpstarter_pb2.StatusResponse(leased=True, lease_name=board.lease, client_name=client)
            await changed.wait()

    async def Listen(self, request: Any, context: Any) -> AsyncIterator[Any]:
        board = self._board(context)
        if board.lease != request.lease_name:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the lease is not of this exporter")
        send, receive = create_memory_object_stream[Any](BUFFER)
        board.listener = send
        self._tell()
        try:
            with send, receive:
                async for item in receive:
                    yield item
        finally:
            if board.listener is send:
                board.listener = None

    async def Dial(self, request: Any, context: Any) -> Any:
        await self.faults.enter("Dial", context)
        lease = await self._owned(request.lease_name, context, shared=True)
        board = self.boards.get(lease.exporter.rpartition("/")[2])
        if board is None or board.lease != request.lease_name:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the lease holds no exporter")
        if board.listener is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the exporter is not listening")
        self.dials += 1
        token = await self._token(lease, context) if self.tells_roles else f"stream-{self.dials}"
        await board.listener.send(
            jumpstarter_pb2.ListenResponse(router_endpoint=self.router_endpoint, router_token=token)
        )
        return jumpstarter_pb2.DialResponse(router_endpoint=self.router_endpoint, router_token=token)

    async def _token(self, lease: client_pb2.Lease, context: Any) -> str:
        """A stream token that says whose it is, with a signature that nobody looks at here."""
        client, name = await self._client(context), lease.name.rpartition("/")[2]
        share = lab_pb2.Role.Name(self.shares[name].get(client, lab_pb2.ROLE_OWNER))
        claims = {"sub": str(self.dials), "client": client, "role": share.removeprefix("ROLE_").lower()}
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return f"e30.{body}.signature"


class MockLabService(lab_pb2_grpc.LabServiceServicer):
    """Tells what a mock controller knows, and each change of it."""

    def __init__(self, controller: MockController) -> None:
        self.controller = controller
        self.extra: dict[str, dict[str, Any]] = defaultdict(dict)
        """Members of the state of a lease that the mock has no rules for, by lease, such as `idle_until`."""
        self.watches: Counter[str] = Counter()
        """Open streams by method."""

    def state(self, name: str, client: str) -> lab_pb2.LeaseState:
        controller = self.controller
        lease = controller.leases[name]
        ended = name not in controller.active()
        state = lab_pb2.LeaseState(lease=lease, ended=ended, shares=controller.shares[name])
        pending = [each for each in controller.active() if not controller.leases[each].HasField("exporter")]
        if name in pending:
            state.place, state.waiting = pending.index(name) + 1, len(pending)
            for board in controller.boards.values():
                if board.lease is not None and controller._matches(board, lease.selector):
                    held = controller.leases[board.lease]
                    holder = state.holders.add(
                        exporter=board.name, client=held.client.rpartition("/")[2], lease=board.lease
                    )
                    holder.until.FromDatetime(self._until(held))
        elif not ended:
            state.until.FromDatetime(self._until(lease))
        owner = lease.client.rpartition("/")[2]
        state.role = 1 if client == owner else controller.shares[name].get(client, 0)
        state.now.FromDatetime(controller.now())
        for member, value in self.extra[name].items():
            if isinstance(value, datetime.datetime):
                getattr(state, member).FromDatetime(value)
            else:
                setattr(state, member, value)
        return state

    @staticmethod
    def _until(lease: Any) -> datetime.datetime:
        return lease.effective_begin_time.ToDatetime(tzinfo=datetime.UTC) + lease.duration.ToTimedelta()

    def exporter(self, board: Board) -> lab_pb2.ExporterState:
        state = lab_pb2.ExporterState(exporter=self.controller._exporter(board), devices=["power"])
        state.now.FromDatetime(self.controller.now())
        if board.lease is not None:
            lease = self.controller.leases[board.lease]
            state.lease, state.client = board.lease, lease.client.rpartition("/")[2]
            state.until.FromDatetime(self._until(lease))
        return state

    async def _changes(self, method: str, context: Any) -> AsyncIterator[str]:
        """Iterate over the moments at which something has changed, as the name of the client who asks."""
        await self.controller.faults.enter(method, context)
        client = await self.controller._client(context)
        self.watches[method] += 1
        try:
            while True:
                moved = self.controller.moved
                yield client
                await moved.wait()
                # A fault that was put in place meanwhile ends the stream.
                if self.controller.faults.refuse[method]:
                    await self.controller.faults.enter(method, context)
        finally:
            self.watches[method] -= 1

    async def WatchLease(self, request: Any, context: Any) -> AsyncIterator[Any]:
        name = request.name.rpartition("/")[2]
        async for client in self._changes("WatchLease", context):
            if name not in self.controller.leases:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"lease {request.name} not found")
            state = self.state(name, client)
            yield state
            if state.ended:
                return

    def _leases(self, request: Any, client: str) -> dict[str, Any]:
        wanted = self.controller.leases if not request.only_active else self.controller.active()
        states = {name: self.state(name, client) for name in wanted}
        return {
            name: state
            for name, state in states.items()
            if not request.client or state.lease.client.rpartition("/")[2] == request.client
        }

    async def ListLeaseStates(self, request: Any, context: Any) -> Any:
        client = await self.controller._client(context)
        return lab_pb2.ListLeaseStatesResponse(states=self._leases(request, client).values())

    async def ListExporterStates(self, request: Any, context: Any) -> Any:
        await self.controller._client(context)
        return lab_pb2.ListExporterStatesResponse(
            states=[self.exporter(board) for board in self.controller.boards.values()]
        )

    async def WatchLeases(self, request: Any, context: Any) -> AsyncIterator[Any]:
        told: dict[str, Any] = {}
        first = True
        async for client in self._changes("WatchLeases", context):
            states = self._leases(request, client)
            for event in self._events(told, states, lab_pb2.LeaseEvent, first):
                yield event
            told, first = states, False

    async def WatchExporters(self, request: Any, context: Any) -> AsyncIterator[Any]:
        told: dict[str, Any] = {}
        first = True
        async for _ in self._changes("WatchExporters", context):
            states = {board.name: self.exporter(board) for board in self.controller.boards.values()}
            for event in self._events(told, states, lab_pb2.ExporterEvent, first):
                yield event
            told, first = states, False

    @staticmethod
    def _events(told: dict[str, Any], states: dict[str, Any], kind: Any, first: bool) -> Iterator[Any]:
        for state in states.values():
            yield kind(type=lab_pb2.EVENT_TYPE_PUT, state=state)
        for name in set(told) - set(states):
            yield kind(type=lab_pb2.EVENT_TYPE_DELETED, state=told[name])
        if first:
            yield kind(type=lab_pb2.EVENT_TYPE_CURRENT)

    async def ShareLease(self, request: Any, context: Any) -> Any:
        await self.controller._owned(request.name, context)
        name = request.name.rpartition("/")[2]
        if request.role:
            self.controller.shares[name][request.client] = request.role
        else:
            self.controller.shares[name].pop(request.client, None)
        self.controller.touch()
        return self.state(name, await self.controller._client(context))


@dataclass
class Lab:
    """A running controller with its router, and what tests need to use and to disturb them."""

    controller: MockController
    router: MockRouter
    endpoint: str
    certificate: Certificate
    faults: Faults
    servers: list[Any]
    portal: Any = None
    """Of the event loop that it runs on."""
    service: MockLabService | None = None
    """What the controller tells beyond the published protocol; None of one that tells nothing."""

    def client(self, name: str = "alice", **changes: Any) -> Any:
        """The config of a client."""
        from jumpstarter.config.client import ClientConfigV1Alpha1

        values = {
            "alias": name,
            "metadata": {"namespace": NAMESPACE, "name": name},
            "endpoint": self.endpoint,
            "token": f"{name}-token",
            "tls": {"ca": self.certificate.ca},
            "drivers": {"allow": [], "unsafe": True},
        }
        return ClientConfigV1Alpha1(**(values | changes))

    @asynccontextmanager
    async def exporter(self, name: str, driver: Any) -> AsyncIterator[Any]:
        """An exporter that serves every lease of a board with one session of the driver."""
        from types import SimpleNamespace

        from jumpstarter.common.enums import ExporterStatus
        from jumpstarter.common.router import RouterChannels
        from jumpstarter.config.common import ObjectMeta
        from jumpstarter.config.serving import controller_channel
        from jumpstarter.config.tls import TLSConfigV1Alpha1
        from jumpstarter.exporter.session import Session

        tls = TLSConfigV1Alpha1(ca=self.certificate.ca)
        config = SimpleNamespace(
            kind="ExporterConfig",
            path=None,
            endpoint=self.endpoint,
            token="exporter-token",
            metadata=ObjectMeta(namespace=NAMESPACE, name=name),
            tls=tls,
            grpcOptions=None,
        )

        async def bridge(routers: Any, path: Any, response: Any) -> None:
            async with (
                await anyio.connect_unix(path) as local,
                routers.connect(response.router_endpoint, response.router_token, local),
            ):
                pass

        async def serve_leases(stub: Any, routers: Any, path: Any) -> None:
            async with create_task_group() as leases:
                async for status in stub.Status(jumpstarter_pb2.StatusRequest()):
                    if status.leased:
                        leases.start_soon(listen, stub, routers, path, status.lease_name)

        async def listen(stub: Any, routers: Any, path: Any, lease: str) -> None:
            async with create_task_group() as connections:
                async for response in stub.Listen(jumpstarter_pb2.ListenRequest(lease_name=lease)):
                    connections.start_soon(bridge, routers, path, response)

        async with await controller_channel("Exporter", config) as channel, RouterChannels(tls) as routers:
            stub = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
            await stub.Register(jumpstarter_pb2.RegisterRequest())
            with Session(root_device=driver) as session:
                session.update_status(ExporterStatus.LEASE_READY)
                async with session.serve_unix_async() as path, create_task_group() as tg:
                    tg.start_soon(serve_leases, stub, routers, path)
                    yield session
                    tg.cancel_scope.cancel()


@asynccontextmanager
async def running_lab(certificate: Certificate, lab_service: bool = False) -> AsyncIterator[Lab]:
    """A controller and a router on free ports of loopback; one of the published protocol unless asked otherwise."""
    faults, router = Faults(), MockRouter()
    credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    router_server, server = grpc.aio.server(options=options), grpc.aio.server(options=options)
    router_pb2_grpc.add_RouterServiceServicer_to_server(router, router_server)
    router_port = router_server.add_secure_port("127.0.0.1:0", credentials)
    controller = MockController(f"127.0.0.1:{router_port}", faults)
    jumpstarter_pb2_grpc.add_ControllerServiceServicer_to_server(controller, server)
    client_pb2_grpc.add_ClientServiceServicer_to_server(controller, server)
    service = MockLabService(controller) if lab_service else None
    if service is not None:
        lab_pb2_grpc.add_LabServiceServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await router_server.start()
    await server.start()
    try:
        yield Lab(
            controller, router, f"127.0.0.1:{port}", certificate, faults, [server, router_server], service=service
        )
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(None)
            await router_server.stop(None)


@pytest.fixture(scope="session")
async def one_loop() -> AsyncIterator[None]:
    """Have all tests after this one use the same event loop.

    grpc.aio hands the end of a cancelled call to whichever loop runs next, which fails when the call's own is closed.
    """
    yield  # noqa: PT022 (the loop is kept as long as this fixture is)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    """Give all tests that are coroutines the same event loop."""
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("one_loop")(obj)


@pytest.fixture
async def lab(certificate: Certificate, one_loop: None) -> AsyncIterator[Lab]:
    """A controller and a router on the event loop of the test."""
    async with running_lab(certificate) as running, BlockingPortal() as portal:
        running.portal = portal
        yield running


@pytest.fixture
async def telling_lab(certificate: Certificate, one_loop: None) -> AsyncIterator[Lab]:
    """A controller that tells of changes, and a router, on the event loop of the test."""
    async with running_lab(certificate, lab_service=True) as running, BlockingPortal() as portal:
        running.portal = portal
        yield running


@pytest.fixture
def threaded_telling_lab(certificate: Certificate) -> Iterator[Lab]:
    """A controller that tells of changes, and a router, on an event loop in a thread of their own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_lab(certificate, lab_service=True)) as running,
    ):
        running.portal = portal
        yield running


@pytest.fixture
def threaded_lab(certificate: Certificate) -> Iterator[Lab]:
    """A controller and a router on an event loop in a thread of their own, for tests of blocking code."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running_lab(certificate)) as running:
        running.portal = portal
        yield running


@pytest.fixture
def mock_controller(threaded_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> str:
    """`host:port` of a controller whose certificate nobody has to know."""
    monkeypatch.setenv("JUMPSTARTER_GRPC_INSECURE", "1")
    return threaded_lab.endpoint
