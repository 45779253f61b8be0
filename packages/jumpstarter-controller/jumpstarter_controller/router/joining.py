"""The connection of a router on another machine to its controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from jumpstarter.common.grpc import aio_secure_channel, composite_channel_credentials, ssl_channel_credentials
from jumpstarter.config.grpc import call_credentials

if TYPE_CHECKING:
    from .remote import RemoteSettings

LINK_OPTIONS = {
    # A dead way to the controller is noticed by the answers to these, for which present gRPC waits as the last says.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,
}


async def controller_channel(settings: RemoteSettings) -> grpc.aio.Channel:
    """Open a channel to the controller with the credentials of the router's account.

    Raises:
        ConfigurationError: the endpoint or the CA is not well formed.
        ConnectionError: the certificates are to be taken as they are, and the controller shows none.
    """
    credentials = composite_channel_credentials(
        await ssl_channel_credentials(settings.controller, settings.tls),
        call_credentials("Router", settings.metadata, settings.token()),
    )
    return aio_secure_channel(settings.controller, credentials, LINK_OPTIONS)
