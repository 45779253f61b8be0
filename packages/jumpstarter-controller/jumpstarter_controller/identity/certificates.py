"""What a server shows when a peer connects: the current certificate, new ones without a restart.

A new connection asks for the certificate, so that nothing has to run in between: one of the lab's authority is
renewed then when it is old, own files are read again then when they have changed. Connections that are there stay.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jumpstarter.common.exceptions import ConfigurationError

from ..clock import Clock
from .authority import LEAF_LIFE, Authority
from .pem import Pair, read_pair, root_of, uncovered

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)

WARN_BEFORE = timedelta(days=14)
"""Own certificates are complained about when they expire within this time."""


class Source(Protocol):
    """Where certificates come from. Called by several threads, one at a time."""

    @property
    def ca(self) -> bytes:
        """What peers have to trust, as PEM; empty when the roots of their systems are enough."""
        ...

    def current(self) -> Pair:
        """Return the certificate for a connection that begins now; the same object as long as it is the same one."""
        ...


class Issued:
    """Certificates of the lab's authority, each renewed after two thirds of its life."""

    def __init__(self, authority: Authority, hosts: Sequence[str], clock: Clock, life: timedelta = LEAF_LIFE) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._clock = clock
        self._life = life
        self._pair = authority.issue(self._hosts, life)
        self._renew = self._time_to_renew()

    @property
    def ca(self) -> bytes:
        return self._authority.certificate

    def current(self) -> Pair:
        if self._clock.now() >= self._renew:
            self._pair = self._authority.issue(self._hosts, self._life)
            self._renew = self._time_to_renew()
            logger.info("the certificate of the server was renewed; it expires at %s", self._pair.expires)
        return self._pair

    def _time_to_renew(self) -> datetime:
        now = self._clock.now()
        return now + (self._pair.expires - now) * 2 / 3


class Files:
    """A certificate that the administrator looks after, in files.

    Files that change are read again; while they are wrong, or only one of them has been replaced, the former
    certificate stays.

    Args:
        certificate: PEM, the certificate first, then what leads to its root.
        key: PEM, without passphrase.
        ca: PEM of what peers have to trust; None for the root if the certificate file ends with it.
        hosts: what peers dial; that the certificate is not for one of them is logged.

    Raises:
        ConfigurationError: a file can't be used.
    """

    def __init__(
        self, certificate: Path, key: Path, hosts: Sequence[str], clock: Clock, *, ca: Path | None = None
    ) -> None:
        self._certificate, self._key, self._ca_file = certificate, key, ca
        self._hosts = tuple(hosts)
        self._clock = clock
        self._seen = self._state()
        self._ca = b""
        self._pair = self._read()
        self._warned = False

    @property
    def ca(self) -> bytes:
        return self._ca

    def current(self) -> Pair:
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._pair = self._read()
            except ConfigurationError as error:
                logger.error("%s; the former certificate stays in use", error)
            else:
                self._warned = False
                logger.info("%s was read again; it expires at %s", self._certificate, self._pair.expires)
        if not self._warned and self._clock.now() >= self._pair.expires - WARN_BEFORE:
            self._warned = True
            logger.warning("%s expires at %s; replace it", self._certificate, self._pair.expires)
        return self._pair

    def _state(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._certificate, self._key, self._ca_file) if path is not None)

    def _read(self) -> Pair:
        chain, key = _bytes(self._certificate), _bytes(self._key)
        pair = read_pair(chain, key, self._clock.now(), f"{self._certificate} with {self._key}")
        self._ca = root_of(chain) if self._ca_file is None else _authority(self._ca_file)
        missing = uncovered(pair.certificate, self._hosts)
        if missing:
            logger.warning(
                "%s is not for %s, so peers that dial that refuse it; get a certificate with that name, or set the"
                " endpoint to a name that it is for",
                self._certificate,
                ", ".join(missing),
            )
        return pair


class ServerCertificates:
    """What the servers of a process show, over gRPC and HTTP."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()

    @property
    def ca(self) -> bytes:
        """What peers have to trust, as PEM; empty when the roots of their systems are enough."""
        with self._lock:
            return self._source.ca

    def current(self) -> Pair:
        """Return the certificate for a connection that begins now."""
        with self._lock:
            return self._source.current()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a gRPC server, with or without asyncio, that follow the certificate."""
        import grpc

        shown = self.current()

        def configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            pair = self.current()
            if pair is shown:
                return None
            shown = pair
            return configuration(pair)

        return grpc.dynamic_ssl_server_credentials(configuration(shown), changed)

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context for an HTTP server that follows the certificate."""
        shown = self.current()
        context = _context(shown)
        latest = context

        def follow(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            nonlocal shown, latest
            pair = self.current()
            if pair is not shown:
                shown, latest = pair, _context(pair)
            connection.context = latest

        context.sni_callback = follow
        return context


def _context(pair: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # The ssl module takes files only; this one is private, and gone at once.
    with tempfile.NamedTemporaryFile() as file:
        file.write(pair.key + b"\n" + pair.chain)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror or error}") from None


def _authority(path: Path) -> bytes:
    from cryptography.x509 import load_pem_x509_certificates

    pem = _bytes(path)
    try:
        load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigurationError(f"{path} is no PEM file with certificates") from None
    return pem
