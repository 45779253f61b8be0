"""Network drivers: each stream that a client opens is one connection from the exporter to the target."""

from __future__ import annotations

import socket
from abc import ABCMeta, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import anyio
from anyio.abc import ObjectStream, SocketAttribute, SocketStream
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import copy_stream, create_memory_stream
from jumpstarter.streams.sockets import connect_tcp
from jumpstarter.streams.unix import connect_unix
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from .address import format_address as _format_address
from .address import is_ipv4_address as _is_ipv4_address
from .address import is_ipv6_address as _is_ipv6_address
from .address import resolve_hostname as _resolve_hostname
from .common import DATAGRAMS, KIND_LABEL, STREAM, TRANSPORT_LABEL

__all__ = [
    "DbusNetwork",
    "EchoNetwork",
    "NetworkInterface",
    "TcpNetwork",
    "UdpNetwork",
    "UnixNetwork",
    "VsockNetwork",
    "WebsocketNetwork",
    "_format_address",
    "_is_ipv4_address",
    "_is_ipv6_address",
    "_resolve_hostname",
]

T = TypeVar("T")
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]

CONNECT_TIMEOUT = 30.0
"""Seconds that a target may take to accept a connection, unless configured otherwise."""

STRICT = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


class NetworkInterface(metaclass=ABCMeta):
    """What a driver offers whose clients talk to something over a connection."""

    driver_type: ClassVar[str] = "network"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_network.client.NetworkClient"

    def extra_labels(self) -> dict[str, str]:
        """Tell clients what the streams carry."""
        return {TRANSPORT_LABEL: STREAM}

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Any]:
        """Open one connection to the target; marked with `exportstream` in each driver."""


async def opened(what: str, timeout: float, connect: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Return what `connect(*args)` opens within `timeout` seconds.

    Raises:
        TimeoutError: it takes longer.
        ConnectionError: it fails; the message names the target and the reason.
    """
    try:
        with anyio.fail_after(timeout):
            return await connect(*args)
    except TimeoutError:
        raise TimeoutError(f"no answer from {what} within {timeout:g} s") from None
    except OSError as error:
        raise ConnectionError(f"can't connect to {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return why a connection failed, in one line; several attempts may have failed for several reasons."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(reason(each) for each in cause.exceptions))
    if isinstance(cause, OSError):
        return reason(cause)
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


def keep_alive(stream: SocketStream) -> None:
    """Let the kernel find out about a peer that vanished: a first probe after a minute, then every 15 s, four times."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


@dataclass(kw_only=True, config=STRICT)
class TcpNetwork(NetworkInterface, Driver):
    """A TCP port that the exporter can reach."""

    host: Annotated[str, Field(min_length=1)]
    """Name or address."""
    port: Port
    connect_timeout: Seconds = CONNECT_TIMEOUT
    """Seconds that the target may take to accept a connection."""
    keepalive: bool = True
    """Have the kernel probe idle connections, so that a target that lost power is noticed within two minutes."""
    enable_address: bool = True
    """Let clients ask for the target's address, to connect to it directly."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[SocketStream, None]:
        """Open a TCP connection to the target."""
        what = f"TCP {_format_address(self.host, self.port)}"
        stream = await opened(what, self.connect_timeout, connect_tcp, self.host, self.port)
        async with stream:
            if self.keepalive:
                keep_alive(stream)
            yield stream

    @export(watch=True)
    def address(self) -> str:
        """Return `tcp://IP:port` of the target.

        Raises:
            ValueError: the exporter config does not allow it.
        """
        return shown_address(self, "tcp")


@dataclass(kw_only=True, config=STRICT)
class UdpNetwork(NetworkInterface, Driver):
    """A UDP port that the exporter can reach; one item of a stream is one datagram, in both directions."""

    host: Annotated[str, Field(min_length=1)]
    """Name or address."""
    port: Port
    enable_address: bool = True
    """Let clients ask for the target's address, to send to it directly."""

    def extra_labels(self) -> dict[str, str]:
        """Tell clients that streams carry datagrams, not a sequence of bytes."""
        return {TRANSPORT_LABEL: DATAGRAMS}

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a UDP socket that is connected to the target."""
        what = f"UDP {_format_address(self.host, self.port)}"
        from .udp import connect_udp

        async with await opened(what, CONNECT_TIMEOUT, connect_udp, self.host, self.port) as stream:
            yield stream

    @export(watch=True)
    def address(self) -> str:
        """Return `udp://IP:port` of the target.

        Raises:
            ValueError: the exporter config does not allow it.
        """
        return shown_address(self, "udp")


def shown_address(driver: TcpNetwork | UdpNetwork, scheme: str) -> str:
    """Return the address of a driver's target as a URL, its host resolved on the exporter."""
    refuse_address_unless(driver.enable_address)
    return f"{scheme}://{_format_address(_resolve_hostname(driver.host), driver.port)}"


def refuse_address_unless(enabled: bool) -> None:
    """Raise ValueError unless clients may see the address."""
    if not enabled:
        raise ValueError("enable_address mode is not true: the exporter config does not let clients see this address")


@dataclass(kw_only=True, config=STRICT)
class UnixNetwork(NetworkInterface, Driver):
    """A Unix stream socket on the exporter."""

    path: Annotated[str, Field(min_length=1)]
    connect_timeout: Seconds = CONNECT_TIMEOUT
    """Seconds that the target may take to accept a connection."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[SocketStream, None]:
        """Open a connection to the socket."""
        stream = await opened(f"Unix socket {self.path}", self.connect_timeout, connect_unix, self.path)
        async with stream:
            yield stream


@dataclass(kw_only=True, config=STRICT)
class VsockNetwork(NetworkInterface, Driver):
    """A vsock port of a virtual machine on the exporter's host, or of that host; Linux only."""

    system_requirements: ClassVar[dict[str, str]] = {
        "/dev/vsock?": "modprobe vsock; the kernel does it by itself where it may load modules",
    }

    cid: Annotated[int, Field(ge=0, lt=2**32)]
    """Context id: 1 is this machine (needs the module vsock_loopback), 2 the host, above that virtual machines."""
    port: Annotated[int, Field(ge=0, lt=2**32)]
    connect_timeout: Seconds = CONNECT_TIMEOUT
    """Seconds that the target may take to accept a connection."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[SocketStream, None]:
        """Open a connection to the port."""
        what = f"vsock {self.cid}:{self.port}"
        stream = await opened(what, self.connect_timeout, self._connect)
        async with stream:
            yield stream

    async def _connect(self) -> SocketStream:
        from .vsock import connect_vsock

        return await connect_vsock(self.cid, self.port)


@dataclass(kw_only=True, config=STRICT)
class DbusNetwork(NetworkInterface, Driver):
    """The system or session bus of the exporter, which clients use as if it were theirs."""

    KIND_LABEL: ClassVar[str] = KIND_LABEL

    system_requirements: ClassVar[dict[str, str]] = {
        "/run/dbus/system_bus_socket?": "apt-get install dbus; it is where the system bus usually listens",
    }

    kind: Literal["system", "session"]
    """Which bus; its address is that of the exporter's environment, or the usual one."""
    connect_timeout: Seconds = CONNECT_TIMEOUT
    """Seconds that the bus may take to accept a connection."""

    scheme: str = field(init=False, default="")
    """Transport of the first address, `unix` or `tcp`."""
    args: dict[str, str] = field(init=False, default_factory=dict)
    """Values of the first address."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_network.client.DbusNetworkClient"

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        from .dbus import default_address, parse_addresses

        self._addresses = parse_addresses(default_address(self.kind))
        self.scheme, self.args = self._addresses[0].scheme, dict(self._addresses[0].args)

    def extra_labels(self) -> dict[str, str]:
        """Tell clients which bus it is."""
        return {**super().extra_labels(), KIND_LABEL: self.kind}

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a connection to the bus, on which any client is taken for the user that the exporter runs as."""
        from .streams.dbus import DbusAuthStream

        stream = await self._connect_first()
        async with DbusAuthStream(stream=stream) as authenticating:
            yield authenticating

    async def _connect_first(self) -> SocketStream:
        """Connect to the first address that answers."""
        failures: list[str] = []
        for address in self._addresses:
            target = address.target
            what = f"the {self.kind} bus at {address}"
            try:
                if isinstance(target, str):
                    return await opened(what, self.connect_timeout, connect_unix, target)
                return await opened(what, self.connect_timeout, connect_tcp, *target)
            except (ConnectionError, TimeoutError) as error:
                failures.append(str(error))
        raise ConnectionError("; ".join(failures))


@dataclass(kw_only=True, config=STRICT)
class EchoNetwork(NetworkInterface, Driver):
    """A target that sends back what it gets; for trials."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a stream that returns each chunk."""
        near, far = create_memory_stream()
        async with near, far, anyio.create_task_group() as tg:
            tg.start_soon(copy_stream, far, far)
            try:
                yield near
            finally:
                tg.cancel_scope.cancel()


@dataclass(kw_only=True, config=STRICT)
class WebsocketNetwork(NetworkInterface, Driver):
    """A WebSocket server that the exporter can reach; what clients send goes out as binary messages."""

    url: Annotated[str, Field(pattern=r"^wss?://")]
    """`ws://` or `wss://` address."""
    headers: dict[str, str] = field(default_factory=dict)
    """Additional headers of the opening request, such as Authorization."""
    subprotocols: list[str] = field(default_factory=list)
    """Subprotocols to offer, in order of preference."""
    ca_file: str | None = None
    """PEM file of the authorities to trust for `wss://`, instead of those of the system."""
    insecure_tls: bool = False
    """Accept any certificate; only for a network that is trusted as a whole."""
    max_message_size: Annotated[int, Field(ge=1)] | None = None
    """Largest message from the server in bytes; without it the limit of the library holds, 1 MiB."""
    connect_timeout: Seconds = CONNECT_TIMEOUT
    """Seconds that the server may take until the connection is open."""
    enable_address: bool = True
    """Let clients ask for the URL, to connect to it directly."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a WebSocket connection."""
        from .streams.websocket import WebsocketClientStream

        connection = await opened(f"WebSocket {self.url}", self.connect_timeout, self._connect)
        async with WebsocketClientStream(conn=connection) as stream:
            yield stream

    async def _connect(self) -> Any:
        import websockets

        try:
            return await websockets.connect(self.url, **self._options())
        except websockets.exceptions.WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def _options(self) -> dict[str, Any]:
        """Return the arguments that the configuration asks for, and no others."""
        options: dict[str, Any] = {}
        if self.headers:
            options["additional_headers"] = self.headers
        if self.subprotocols:
            options["subprotocols"] = self.subprotocols
        if self.max_message_size is not None:
            options["max_size"] = self.max_message_size
        if self.url.startswith("wss:") and (self.ca_file or self.insecure_tls):
            import ssl

            context = ssl.create_default_context(cafile=self.ca_file)
            if self.insecure_tls:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            options["ssl"] = context
        return options

    @export(watch=True)
    def address(self) -> str:
        """Return the URL.

        Raises:
            ValueError: the exporter config does not allow it.
        """
        refuse_address_unless(self.enable_address)
        return self.url
