"""Opening a client: from the address of a session to the tree of driver clients."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.experimental
from anyio import sleep
from google.protobuf import empty_pb2

from jumpstarter.common.cancellation import answer
from jumpstarter.common.exceptions import ExporterUnreachableError

from . import local_paths
from .base import DriverClient
from .errors import DriverError
from .stub import MultipathExporterStub
from .tree import DriverReport, build_tree

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from jumpstarter.common.tls import TLSConfigV1Alpha1

CHANNEL_OPTIONS = (
    # Frames and windows for bulk transfer; the defaults of 16 and 64 KiB cost a third of the rate.
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
)

BLOCKING_OPTIONS = (
    # Streaming calls are read by the thread that consumes them: no hop between threads for every item.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
)

PATIENCE_INTERVAL = 1.0
"""Seconds between two attempts to reach an exporter that is busy with the hook before the lease."""

REPORT_TIMEOUT = 60.0
"""Seconds that an exporter may take to describe its drivers."""


def _is_tcp_address(path: str) -> bool:
    """Tell `host:port` from the path of a Unix socket."""
    host, separator, port = path.rpartition(":")
    return bool(separator and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535)


def direct_streams_available(path: str) -> bool:
    """Tell whether the session at `path` offers streams beside gRPC to this user."""
    # Commands that make ordinary calls use this module for `open_blocking` alone, and do without anyio.
    from jumpstarter.streams.direct import available

    return available(path)


def _direct_if_available(path: str) -> str | None:
    return path if direct_streams_available(path) else None


@asynccontextmanager
async def client_from_path(
    path: str | os.PathLike[str],
    portal: BlockingPortal,
    stack: ExitStack,
    allow: list[str],
    unsafe: bool,
    *,
    tls_config: TLSConfigV1Alpha1 | None = None,
    grpc_options: dict[str, Any] | None = None,
    insecure: bool = False,
    passphrase: str | None = None,
    leased: bool = False,
) -> AsyncGenerator[DriverClient, None]:
    """Yield the root client of the session at `path`.

    Args:
        path: a Unix socket, or `host:port` with TLS unless `insecure`.
        portal: runs the event loop for the blocking face of the clients.
        stack: closed by its owner; what clients open is nested in it.
        allow: patterns of dotted paths of the client classes that may be imported.
        unsafe: import any client class.
        tls_config: certificate authority for TCP.
        grpc_options: channel options that override ours.
        insecure: speak plain text over TCP.
        passphrase: what a TCP session asks for; not sent to a Unix socket.
        leased: every connection to `path` is a tunnel through a router, so no second one is opened
            for the sake of faster calls.

    Raises:
        ExporterUnreachableError: nothing answers at `path`.
        ConfigurationError: the exporter's description of its drivers makes no tree.
    """
    address = str(path)
    interceptors = None
    stream_metadata: tuple[tuple[str, str], ...] = ()
    blocking: partial[grpc.Channel] | None = None
    direct: str | partial[str | None] | None = None
    local: local_paths.LocalPath | None = None
    if not _is_tcp_address(address):
        channel = open_channel(address, grpc_options)
        local = local_paths.find(address)
        if leased and local is None:
            from .direct_child import DirectChild

            local = local_paths.paths[address] = DirectChild(address)
        if local is not None:
            direct = partial(_direct_if_available, address)
        elif direct_streams_available(address):
            direct = address
        if not leased or direct_streams_available(address):
            blocking = partial(open_blocking, address, grpc_options)
    else:
        if passphrase is not None:
            from jumpstarter.common.passphrase import PASSPHRASE_METADATA_KEY, passphrase_client_interceptors

            interceptors = passphrase_client_interceptors(passphrase, streams=False)
            stream_metadata = ((PASSPHRASE_METADATA_KEY, passphrase),)
        if insecure:
            channel = grpc.aio.insecure_channel(address, options=_options(grpc_options), interceptors=interceptors)
        else:
            channel = await _secure_channel(address, tls_config, grpc_options, interceptors)
    async with channel:
        stub = MultipathExporterStub(
            [channel], blocking_channel=blocking, direct_path=direct, stream_metadata=stream_metadata
        )
        try:
            while True:
                try:
                    client = await _client_from_stub(stub, portal, stack, allow, unsafe, local)
                    break
                except grpc.aio.AioRpcError as error:
                    unreachable = _translate(error, address)
                    hopes = local_paths.patience.get(address)
                    if not isinstance(unreachable, ExporterUnreachableError) or hopes is None or not await hopes():
                        raise unreachable from error
                await sleep(PATIENCE_INTERVAL)
            yield client
        finally:
            stub.close()


def open_channel(path: str, grpc_options: dict[str, Any] | None = None) -> grpc.aio.Channel:
    """Return a channel to the Unix socket at `path` for the running event loop."""
    return grpc.aio.insecure_channel(f"unix://{path}", options=_options(grpc_options))


def open_blocking(path: str, grpc_options: dict[str, Any] | None = None) -> grpc.Channel:
    """Return a channel to the Unix socket at `path` for calls that block the calling thread."""
    return grpc.insecure_channel(f"unix://{path}", options=[*_options(grpc_options), *BLOCKING_OPTIONS])


def _options(grpc_options: dict[str, Any] | None) -> list[tuple[str, Any]]:
    return list((dict(CHANNEL_OPTIONS) | (grpc_options or {})).items())


async def _secure_channel(
    address: str,
    tls_config: TLSConfigV1Alpha1 | None,
    grpc_options: dict[str, Any] | None,
    interceptors: Sequence[Any] | None,
) -> grpc.aio.Channel:
    from jumpstarter.common.grpc import aio_secure_channel, ssl_channel_credentials
    from jumpstarter.common.tls import TLSConfigV1Alpha1

    credentials = await ssl_channel_credentials(address, tls_config or TLSConfigV1Alpha1())
    options = dict(CHANNEL_OPTIONS) | (grpc_options or {})
    return aio_secure_channel(address, credentials, options, interceptors=interceptors)


def _translate(error: grpc.aio.AioRpcError, address: str) -> Exception:
    code, details = error.code(), error.details() or "no details"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return ExporterUnreachableError(f"the exporter at {address} did not respond: {details}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return DriverError(
            f"the exporter at {address} refused this client: {details}. Give the passphrase it was started with."
        )
    return DriverError(f"the exporter at {address} failed: {code.name}: {details}")


async def client_from_channel(
    channel: grpc.aio.Channel, portal: BlockingPortal, stack: ExitStack, allow: list[str], unsafe: bool
) -> DriverClient:
    """Return the root client of the session that `channel` leads to; see `client_from_path`."""
    return await _client_from_stub(MultipathExporterStub([channel]), portal, stack, allow, unsafe)


async def _client_from_stub(
    stub: MultipathExporterStub,
    portal: BlockingPortal,
    stack: ExitStack,
    allow: list[str],
    unsafe: bool,
    local: local_paths.LocalPath | None = None,
) -> DriverClient:
    response = await answer(stub.GetReport(empty_pb2.Empty(), timeout=REPORT_TIMEOUT))
    if local is not None:
        local.offered(response, stub)
    reports = [
        DriverReport(
            uuid=report.uuid,
            parent_uuid=report.parent_uuid if report.HasField("parent_uuid") else None,
            labels=dict(report.labels),
            description=report.description or None,
            methods_description=dict(report.methods_description),
        )
        for report in response.reports
    ]
    return build_tree(reports, stub=stub, portal=portal, stack=stack, allow=allow, unsafe=unsafe)
