"""Channels to controllers, routers and exporters, and what their failures mean to a user."""

from __future__ import annotations

import base64
import binascii
import errno
import ipaddress
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio
import grpc
from anyio.streams.tls import TLSAttribute, TLSStream
from grpc.aio import Channel, ClientInterceptor

from .exceptions import ConfigurationError, ConnectionError

__all__ = [
    "aio_secure_channel",
    "composite_channel_credentials",
    "configure_grpc_env",
    "ssl_channel_credentials",
    "translate_grpc_exceptions",
]

logger = logging.getLogger(__name__)

DEFAULT_PORT = 443
"""Port of a target that names none."""

PIN_LIFETIME = 60.0
"""Seconds for which the certificates that an unverified server showed are used again without asking it.

Long enough that the many channels of a session ask once, short enough that a server with a new
certificate is reachable again soon.
"""

DEFAULT_OPTIONS: dict[str, Any] = {
    "grpc.lb_policy_name": "round_robin",
    # A ping each 20 s keeps idle tunnels open in middleboxes; a peer may miss them for 3 minutes before the
    # connection is given up, so that sessions survive a short loss of the network.
    "grpc.keepalive_time_ms": 20000,
    "grpc.keepalive_timeout_ms": 180000,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.keepalive_permit_without_calls": 1,
}
"""Channel options, which peers of version 0.9 use too; servers must accept a ping each 20 s."""


class TLSConfig(Protocol):
    """What is read of the `tls` member of a config."""

    @property
    def ca(self) -> str: ...
    @property
    def insecure(self) -> bool: ...


_server_names: WeakKeyDictionary[grpc.ChannelCredentials, str] = WeakKeyDictionary()
"""Names to expect in the certificate in place of the target's, for credentials of insecure servers."""


def configure_grpc_env() -> None:
    """Silence gRPC's own log unless the environment says otherwise; importing `jumpstarter` does it too."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GLOG_minloglevel", "2")


def _insecure(tls_config: TLSConfig) -> bool:
    return tls_config.insecure or any(
        os.environ.get(name) == "1" for name in ("JUMPSTARTER_GRPC_INSECURE", "JMP_GRPC_INSECURE")
    )


async def ssl_channel_credentials(target: str, tls_config: TLSConfig, timeout: float = 5) -> grpc.ChannelCredentials:
    """Return the TLS credentials for a channel to `target`.

    With an insecure config, or with `JUMPSTARTER_GRPC_INSECURE=1` or `JMP_GRPC_INSECURE=1`, the server is asked for
    its certificates, and these are trusted, whoever issued them and whatever name they bear.

    Args:
        target: `host`, `host:port` or `[IPv6 address]:port`; the port is 443 when missing.
        tls_config: `ca` holds PEM certificates in base64, empty for the roots of the system.
        timeout: seconds that an insecure server has to answer.

    Raises:
        ConfigurationError: the target or the CA is not well formed.
        ConnectionError: an insecure server doesn't answer with a certificate.
    """
    if _insecure(tls_config):
        return await _pinned_credentials(*_parse_target(target), timeout)
    if not tls_config.ca:
        return grpc.ssl_channel_credentials()
    try:
        roots = base64.b64decode(tls_config.ca, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(f"tls.ca for {target} is not valid base64 of PEM certificates: {error}") from None
    if b"-----BEGIN CERTIFICATE-----" not in roots:
        raise ConfigurationError(f"tls.ca for {target} holds no PEM certificate; encode the CA file with: base64 -w0")
    return grpc.ssl_channel_credentials(root_certificates=roots)


def composite_channel_credentials(
    credentials: grpc.ChannelCredentials, *call_credentials: grpc.CallCredentials
) -> grpc.ChannelCredentials:
    """Add call credentials, as `grpc.composite_channel_credentials` does, keeping the server name of insecure ones."""
    composite = grpc.composite_channel_credentials(credentials, *call_credentials)
    if (name := _server_names.get(credentials)) is not None:
        _server_names[composite] = name
    return composite


def _override_default_grpc_options(grpc_options: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Return the channel options, those of the user in place of ours."""
    return list({**DEFAULT_OPTIONS, **(grpc_options or {})}.items())


def aio_secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    grpc_options: Mapping[str, Any] | None,
    *,
    interceptors: Sequence[ClientInterceptor] | None = None,
) -> Channel:
    """Open a channel to `target`, which connects when it's first used.

    Args:
        target: as for `ssl_channel_credentials`.
        credentials: with the server's certificates, call credentials included where the server asks for them.
        grpc_options: options of the user, which win over `DEFAULT_OPTIONS`.
        interceptors: see `grpc.aio.secure_channel`.
    """
    options = dict(_override_default_grpc_options(grpc_options))
    if (name := _server_names.get(credentials)) is not None:
        options.setdefault("grpc.ssl_target_name_override", name)
    return grpc.aio.secure_channel(target, credentials, options=list(options.items()), interceptors=interceptors)


def _parse_target(target: str) -> tuple[str, int]:
    """Split a target into host and port.

    Raises:
        ConfigurationError: it is neither a name nor an address, or its port is no number from 1 to 65535.
    """
    try:
        parts = urlsplit(f"//{target.removeprefix('dns:///')}")
        port = parts.port
        if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("there is no host name, or more than host and port")
        if port == 0:
            raise ValueError("port 0 can't be connected to")
    except ValueError as error:
        raise ConfigurationError(f"{target!r} is not an endpoint of the form host:port: {error}") from None
    return parts.hostname, port or DEFAULT_PORT


_pins: dict[tuple[str, int], tuple[float, bytes, str | None]] = {}
"""Time, PEM certificates and name override of the servers that were asked lately."""


async def _pinned_credentials(host: str, port: int, timeout: float) -> grpc.ChannelCredentials:
    known = _pins.get((host, port))
    if known is None or time.monotonic() - known[0] > PIN_LIFETIME:
        chain = await _server_chain(host, port, timeout)
        if known is not None and known[1] != chain:
            logger.warning("%s port %d shows another certificate than before; it is not verified", host, port)
        name = await _name_override(host, port, chain, timeout)
        known = _pins[host, port] = time.monotonic(), chain, name
    credentials = grpc.ssl_channel_credentials(root_certificates=known[1])
    if known[2] is not None:
        _server_names[credentials] = known[2]
    return credentials


async def _connect_tls(host: str, port: int, context: ssl.SSLContext, timeout: float) -> TLSStream:
    context.set_alpn_protocols(["h2"])  # servers may refuse a client without
    failure = f"can't connect to {host} port {port}"
    try:
        with anyio.fail_after(timeout):
            # All addresses of the name are tried, side by side.
            stream = await anyio.connect_tcp(
                host, port, tls=True, ssl_context=context, tls_hostname=host, tls_standard_compatible=False
            )
    except TimeoutError:
        raise ConnectionError(f"{failure}: no answer within {timeout:g} s; is the endpoint right?") from None
    except ssl.SSLError as error:
        raise ConnectionError(f"{failure}: the server there doesn't speak TLS ({error.reason or error})") from None
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectionError(f"{failure}: {_reason(error)}") from None
    return stream


def _reason(error: BaseException) -> str:
    """The cause that a user can act on, which anyio puts below an error of its own, possibly several in a group."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_reason(member) for member in error.exceptions))
    if (
        isinstance(error, OSError)
        and error.errno
        and error.errno in errno.errorcode
        and not isinstance(error, socket.gaierror)
    ):
        return os.strerror(error.errno)  # asyncio's own text is the address once more
    return getattr(error, "strerror", None) or str(error) or "the server closed the connection"


async def _server_chain(host: str, port: int, timeout: float) -> bytes:
    """Return the certificates that the server shows, as PEM text, without any verification."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with await _connect_tls(host, port, context, timeout) as stream:
        ssl_object = stream.extra(TLSAttribute.ssl_object)
        # The issuers come along from Python 3.13 on. The server's own certificate alone will do, but it has to
        # be asked for again when the server gets a new one from the same issuer.
        chain: list[bytes] = getattr(ssl_object, "get_unverified_chain", list)()
        own = stream.extra(TLSAttribute.peer_certificate_binary)
    if own is None:
        raise ConnectionError(f"can't connect to {host} port {port}: the server showed no certificate")
    return "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain or [own]).encode()


async def _name_override(host: str, port: int, chain: bytes, timeout: float) -> str | None:
    """Return a name that the server's certificate bears when `host` is none of them, else None.

    gRPC verifies names whatever it trusts. The names are read from a connection that trusts `chain`, as Python
    decodes no certificate of an untrusted one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=chain.decode())
    try:
        async with await _connect_tls(host, port, context, timeout) as stream:
            certificate = stream.extra(TLSAttribute.peer_certificate) or {}
    except ConnectionError as error:
        # Another server behind the same name, say; gRPC will tell what it can't accept.
        logger.debug("can't read the names in the certificate of %s port %d: %s", host, port, error)
        return None
    names = [(str(pair[0]), str(pair[1])) for pair in certificate.get("subjectAltName", ())]
    if any(_matches(host, kind, name) for kind, name in names):
        return None
    usable = [name for kind, name in names if kind in ("DNS", "IP Address")]
    return usable[0].replace("*", "any", 1) if usable else None


def _matches(host: str, kind: str, name: str) -> bool:
    """Tell whether a name in a certificate covers `host`, as RFC 6125 6.4 and gRPC have it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        host, name = host.lower(), name.lower()
        if kind != "DNS":
            return False
        return host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:])
    return kind == "IP Address" and address == ipaddress.ip_address(name.strip())


_MEANINGS = {
    "UNAVAILABLE": "can't reach the controller",
    "UNKNOWN": "the controller responded with an error",
    "UNAUTHENTICATED": "the controller doesn't accept the token of this config",
    "PERMISSION_DENIED": "permission denied by the controller",
    "NOT_FOUND": "not found by the controller",
    "ALREADY_EXISTS": "already exists on the controller",
    "INVALID_ARGUMENT": "the controller rejects the request as invalid",
    "FAILED_PRECONDITION": "the controller can't do this in the present state",
    "RESOURCE_EXHAUSTED": "the controller is out of resources for this",
    "DEADLINE_EXCEEDED": "the controller didn't answer in time",
    "UNIMPLEMENTED": "the controller doesn't know this operation; it may be older than this client",
    "ABORTED": "the controller aborted the operation",
    "CANCELLED": "the operation was cancelled",
    "INTERNAL": "the controller failed",
    "DATA_LOSS": "the controller lost data",
    "OUT_OF_RANGE": "the controller rejects a value that is out of range",
}
"""What a status name says to a user."""

_UNTRUSTED = re.compile(r"(CERTIFICATE_VERIFY_FAILED|BAD_SIGNATURE): (?P<reason>[\w ]+)")
"""What the library says of a certificate that is not signed by what is trusted, or is out of date."""

UNTRUSTED_HINT = (
    "If the server was set up anew or has another authority now, have an admin give you a new config: `tls.ca` in "
    "yours says what is trusted."
)


@contextmanager
def translate_grpc_exceptions() -> Iterator[None]:
    """Turn errors of calls to the controller into ones that a user can act on.

    Raises:
        ConnectionError: for every gRPC error. The text tells the status and keeps the details; `status`, `details`,
            `reason` and `metadata` hold them apart.
        ConfigurationError: for a ValueError, which gRPC raises for endpoints, tokens and options it can't use.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _translated(error) from None
    except ValueError as error:
        raise ConfigurationError(f"invalid value for a call to the controller: {error}") from error


def _translated(error: grpc.RpcError) -> ConnectionError:
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    status = code.name if code is not None else "UNKNOWN"
    details = (error.details() if code is not None else str(error)) or ""
    meaning = _MEANINGS.get(status, f"the controller answered with the status {status}")
    known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    reason, metadata = error_info(error.trailing_metadata() if known else None)
    # Details that come with a reason are written for users; others want an introduction.
    text = details if reason and details else f"{meaning}: {details}" if details else meaning
    untrusted = _UNTRUSTED.search(details) if status == "UNAVAILABLE" else None
    if untrusted is not None:
        text = f"the certificate that the controller shows can't be trusted: {untrusted['reason']}"
    translated = ConnectionError(text)
    if untrusted is not None:
        translated.hint = UNTRUSTED_HINT
    translated.status, translated.details = status, details
    translated.reason, translated.metadata = reason, metadata
    return translated


def error_info(trailing: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, dict[str, str]]:
    """Return reason and metadata of the `google.rpc.ErrorInfo` that our servers send with errors (AIP-193).

    Args:
        trailing: metadata of the call.
    """
    for key, value in trailing or ():
        if key == "grpc-status-details-bin":
            return _parse_error_info(value if isinstance(value, bytes) else value.encode("latin-1"))
    return "", {}


def _parse_error_info(value: bytes) -> tuple[str, dict[str, str]]:
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    try:
        for detail in Status.FromString(value).details:
            info = ErrorInfo()
            if detail.Unpack(info):
                return info.reason, dict(info.metadata)
    except DecodeError as error:
        logger.debug("the controller sent error details that can't be read: %s", error)
    return "", {}
