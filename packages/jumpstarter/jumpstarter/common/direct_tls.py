"""The TLS of connections between a client and the exporter of its lease that use no router.

An exporter that can be reached so has a certificate authority for each lease, which nobody else trusts. It makes the
exporter's certificate and one for each client that may use the devices; a client gets its own, with the key, over
the way that the lease gives it (`GetReportResponse.alternative_endpoints`).
"""

from __future__ import annotations

import os
import ssl
import tempfile

__all__ = ["SERVER_NAME", "client_context", "server_context"]

SERVER_NAME = "exporter.jumpstarter.internal"
"""Name in every exporter's certificate; which exporter it is shows by who has issued it."""


def server_context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return the exporter's settings: only clients with a certificate of the same authority get in; all in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would outlive the certificate that it began with.
    context.num_tickets = 0
    return _complete(context, authority, certificate, key)


def client_context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return a client's settings: only an exporter with a certificate of the authority is spoken to; all in PEM.

    Raises:
        ValueError: what the exporter sent is not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return _complete(context, authority, certificate, key)
    except (ssl.SSLError, UnicodeEncodeError) as error:
        raise ValueError(f"the exporter's certificates can't be used: {error}") from error


def _complete(context: ssl.SSLContext, authority: str, certificate: str, key: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority)
    # The ssl module takes keys from files alone. This one is for the user only and gone in a moment.
    descriptor, path = tempfile.mkstemp(prefix="jumpstarter-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(certificate + "\n" + key)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
    return context
