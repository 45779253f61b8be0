"""The ports of the servers: how they are set up, and what is wrong when one can't be had."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from jumpstarter.common.exceptions import ConfigurationError

from .router.options import SERVER_OPTIONS

LASTING = {"ping_every": 20.0, "answer_within": 90.0}
"""For `Keepalive` of a port that only streams pass: they outlive a minute without network."""

MOST_METADATA = 32 << 10
"""Bytes of the metadata of a call; tokens of login providers can be long."""

MOST_PENDING = 16384
"""Calls that may wait to be taken up, as when all peers of a large lab connect at once.

By default gRPC begins to cancel calls, unseen by the handlers, when 1000 wait.
"""


@dataclass(frozen=True, kw_only=True)
class Keepalive:
    """How connections are kept, and how lost ones are noticed."""

    ping_every: float = 2.5
    """Seconds of silence after which a peer is pinged; gRPC may take up to twice as long."""
    answer_within: float = 5.0
    """Seconds that it has for an answer: long enough for one that is stopped or slow for a moment.

    Together with `Settings.leases.offline_after` this is how long an exporter that vanished without a word counts as
    online.
    """
    accept_every: float = 5.0
    """Seconds between the pings of a peer without data at least; those of 0.9 ping each 20 s."""

    def options(self) -> list[tuple[str, Any]]:
        """Return options of `grpc.aio.server`."""
        options: dict[str, Any] = dict(SERVER_OPTIONS)
        options |= {
            "grpc.keepalive_time_ms": int(self.ping_every * 1000),
            "grpc.keepalive_timeout_ms": int(self.answer_within * 1000),
            # Pings that measure the connection have a bound of their own, and hold back those that keep it alive.
            "grpc.http2.ping_timeout_ms": int((self.ping_every + self.answer_within) * 1000),
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.max_pings_without_data": 0,
            "grpc.http2.min_ping_interval_without_data_ms": int(self.accept_every * 1000),
            "grpc.max_metadata_size": MOST_METADATA,
            "grpc.server.max_pending_requests": MOST_PENDING,
            "grpc.server.max_pending_requests_hard_limit": MOST_PENDING,
            "grpc.so_reuseport": 0,
        }
        return list(options.items())


def split_address(address: str, what: str = "address") -> tuple[str, int]:
    """Return host and port of `host:port`, `[host]:port` or `:port`.

    Raises:
        ConfigurationError: it is none of these.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"{what} {address!r} is not of the form host:port, such as 127.0.0.1:8082")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen on an address, `host:port` with an empty host for all addresses, and return the port.

    Connections are taken by the system from now on, and served when the server is started.

    Raises:
        ConfigurationError: it can't be listened on; says why and what to do.
    """
    host, port = split_address(address, "the address to listen on")
    _try(host, port)
    try:
        found: int = server.add_secure_port(join_address(host or "::", port), credentials)
    except RuntimeError as error:
        raise ConfigurationError(f"can't listen on {address}: {error}") from None
    return found


def open_listener(address: str) -> socket.socket:
    """Listen on an address for a server that is not of gRPC; forms and errors as of `bind`."""
    host, port = split_address(address, "the address to listen on")
    return _open(host, port, backlog=128)


_ADVICE: Mapping[int, str] = {
    errno.EADDRINUSE: "another program listens there already; end it, or choose another port",
    errno.EACCES: "ports below 1024 are for root; choose another port, or allow it with the capability "
    "CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose one of its own, or 0.0.0.0 for all",
}


def _try(host: str, port: int) -> None:
    """Raise what is wrong with an address, which gRPC only tells in its log."""
    _open(host, port, backlog=1).close()


def _open(host: str, port: int, backlog: int) -> socket.socket:
    where = join_address(host, port)
    both = not host and socket.has_dualstack_ipv6()
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            "::" if both else host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"can't listen on {where}: the host is unknown ({error.strerror})") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(target)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        advice = _ADVICE.get(error.errno or 0, "")
        text = f"{os.strerror(error.errno or 0)}{f'; {advice}' if advice else ''}"
        raise ConfigurationError(f"can't listen on {where}: {text}") from None
    return listener
