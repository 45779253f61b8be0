"""The connection of a router on another machine to its controller."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import grpc
from jumpstarter.common.grpc import aio_secure_channel, composite_channel_credentials, ssl_channel_credentials
from jumpstarter.config.grpc import call_credentials

from ..listening import join_address, split_address

if TYPE_CHECKING:
    from .remote import RemoteSettings

MOST_ADDRESSES = 16

LINK_OPTIONS = {
    # A dead way to the controller is noticed by the answers to these, for which present gRPC waits as the last says.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,
}


async def controller_channel(settings: RemoteSettings, endpoint: str = "", address: str = "") -> grpc.aio.Channel:
    """Open a channel to a controller with the credentials of the router's account.

    Args:
        endpoint: one of several controllers; empty for the one of the settings.
        address: one of several that the endpoint's name has, `host:port`; empty for any.

    Raises:
        ConfigurationError: the endpoint or the CA is not well formed.
        ConnectionError: the certificates are to be taken as they are, and the controller shows none.
    """
    endpoint = endpoint or settings.controller
    credentials = composite_channel_credentials(
        await ssl_channel_credentials(endpoint, settings.tls),
        call_credentials("Router", settings.metadata, settings.token()),
    )
    if not address:
        return aio_secure_channel(endpoint, credentials, LINK_OPTIONS)
    named = {**LINK_OPTIONS, "grpc.ssl_target_name_override": split_address(endpoint)[0]}
    return aio_secure_channel(address, credentials, named)


async def addresses_of(endpoint: str) -> list[str]:
    """Return the addresses that an endpoint's name has, `host:port`; none when it can't be looked up now."""
    host, port = split_address(endpoint)
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({join_address(str(sockaddr[0]), port) for *_, sockaddr in found})[:MOST_ADDRESSES]
