"""Opening a client: from the address of a session to the tree of driver clients."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import grpc.experimental
from anyio.from_thread import BlockingPortal
from google.protobuf import empty_pb2

from jumpstarter.common.exceptions import (
    ConfigurationError,
    ExporterUnreachableError,
    MissingDriverError,
)
from jumpstarter.common.importlib import import_class
from jumpstarter.common.metadata import CLIENT_LABEL, NAME_LABEL
from jumpstarter.streams.direct import available as direct_streams_available

from .base import DriverClient, StubDriverClient
from .core import DriverError
from .stub import MultipathExporterStub

if TYPE_CHECKING:
    from jumpstarter.common.tls import TLSConfigV1Alpha1

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    # Frames and windows for bulk transfer; the defaults of 16 and 64 KiB cost a third of the rate.
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
)

BLOCKING_OPTIONS = (
    # Streaming calls are read by the thread that consumes them: no hop between threads for every item.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
)

REPORT_TIMEOUT = 60.0
"""Seconds that an exporter may take to describe its drivers."""


def _is_tcp_address(path: str) -> bool:
    """Tell `host:port` from the path of a Unix socket."""
    host, separator, port = path.rpartition(":")
    return bool(separator and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535)


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
    blocking: partial[grpc.Channel] | None = None
    direct = None
    if not _is_tcp_address(address):
        channel = grpc.aio.insecure_channel(f"unix://{address}", options=_options(grpc_options))
        if not leased:
            direct = address if direct_streams_available(address) else None
            blocking = partial(
                grpc.insecure_channel, f"unix://{address}", options=[*_options(grpc_options), *BLOCKING_OPTIONS]
            )
    else:
        if passphrase is not None:
            from .passphrase import passphrase_interceptors

            interceptors = passphrase_interceptors(passphrase)
        if insecure:
            channel = grpc.aio.insecure_channel(address, options=_options(grpc_options), interceptors=interceptors)
        else:
            channel = await _secure_channel(address, tls_config, grpc_options, interceptors)
    async with channel:
        stub = MultipathExporterStub([channel], blocking_channel=blocking, direct_path=direct)
        try:
            try:
                client = await _client_from_stub(stub, portal, stack, allow, unsafe)
            except grpc.aio.AioRpcError as error:
                raise _translate(error, address) from error
            yield client
        finally:
            stub.close()


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
    stub: MultipathExporterStub, portal: BlockingPortal, stack: ExitStack, allow: list[str], unsafe: bool
) -> DriverClient:
    response = await stub.GetReport(empty_pb2.Empty(), timeout=REPORT_TIMEOUT)
    reports = list(response.reports)
    children = _link(reports)
    clients: dict[int, DriverClient] = {}
    # Parents come before their children in the report, so this order builds every child first.
    for index in range(len(reports) - 1, -1, -1):
        clients[index] = _build(
            reports[index],
            {reports[child].labels[NAME_LABEL]: clients[child] for child in children.get(index, ())},
            stub=stub,
            portal=portal,
            stack=stack.enter_context(ExitStack()),
            allow=allow,
            unsafe=unsafe,
        )
    return clients[0]


def _link(reports: list[Any]) -> dict[int, list[int]]:
    """Return the indices of every report's children; a parent is the latest earlier report with its uuid.

    Raises:
        ConfigurationError: the reports make no single tree of named drivers.
    """
    if not reports:
        raise ConfigurationError("the exporter reports no drivers")
    latest: dict[str, int] = {}
    children: dict[int, list[int]] = {}
    for index, report in enumerate(reports):
        label = report.labels.get(NAME_LABEL) or report.uuid
        if CLIENT_LABEL not in report.labels:
            raise ConfigurationError(f"the exporter's report of driver {label!r} names no client class")
        if not report.HasField("parent_uuid"):
            if index > 0:
                raise ConfigurationError(f"the exporter reports a second root driver: {label!r}")
        elif index == 0 or report.parent_uuid not in latest:
            raise ConfigurationError(f"the exporter reports driver {label!r} below a parent that it does not report")
        elif NAME_LABEL not in report.labels:
            raise ConfigurationError(f"the exporter reports a driver without a name: {report.uuid}")
        else:
            children.setdefault(latest[report.parent_uuid], []).append(index)
        latest[report.uuid] = index
    return children


def _build(
    report: Any,
    children: dict[str, DriverClient],
    *,
    stub: MultipathExporterStub,
    portal: BlockingPortal,
    stack: ExitStack,
    allow: list[str],
    unsafe: bool,
) -> DriverClient:
    labels = dict(report.labels)
    path = labels[CLIENT_LABEL]
    try:
        client_class = import_class(path, allow, unsafe)
    except MissingDriverError as error:
        if "_JMP_SUPPRESS_DRIVER_WARNINGS" not in os.environ:
            logger.warning("%s", error)
        client_class = StubDriverClient
    arguments: dict[str, Any] = {
        "uuid": UUID(report.uuid),
        "labels": labels,
        "stub": stub,
        "portal": portal,
        "stack": stack,
        "children": children,
    }
    if _takes_descriptions(client_class):
        arguments["description"] = report.description or None
        arguments["methods_description"] = dict(report.methods_description)
    return client_class(**arguments)


_late_keywords: dict[type, bool] = {}


def _takes_descriptions(client_class: type) -> bool:
    """Tell whether the constructor knows `description`; hand-written ones of older packages may not."""
    known = _late_keywords.get(client_class)
    if known is None:
        parameters = signature(client_class.__init__).parameters.values()
        known = any(p.name == "methods_description" or p.kind is Parameter.VAR_KEYWORD for p in parameters)
        _late_keywords[client_class] = known
    return known
