"""Certificates and their keys as PEM: reading what users give, and saying what is wrong with it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from jumpstarter.common.exceptions import ConfigurationError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


@dataclass(frozen=True)
class Pair:
    """A private key and the chain of its certificate, as PEM."""

    key: bytes = field(repr=False)
    chain: bytes
    """The certificate itself first."""
    certificate: Certificate

    @property
    def begins(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @property
    def expires(self) -> datetime:
        return self.certificate.not_valid_after_utc


def read_pair(chain: bytes, key: bytes, now: datetime, where: str) -> Pair:
    """Check a certificate chain and its key.

    Args:
        where: where they come from, for messages.

    Raises:
        ConfigurationError: one of them can't be read, they don't belong together, or it isn't valid now.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    try:
        certificates = load_pem_x509_certificates(chain)
    except ValueError:
        raise ConfigurationError(f"{where}: the certificate is no PEM file with a certificate") from None
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise ConfigurationError(f"{where}: the key is protected by a passphrase; store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{where}: the key is no PEM file with a private key that can be used") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certificates[0].public_key().public_bytes(*form):
        raise ConfigurationError(f"{where}: the key does not belong to the first certificate of the file")
    pair = Pair(key, chain, certificates[0])
    if now < pair.begins:
        raise ConfigurationError(f"{where}: the certificate is not valid before {pair.begins:%Y-%m-%d %H:%M} UTC")
    if now >= pair.expires:
        raise ConfigurationError(f"{where}: the certificate has expired at {pair.expires:%Y-%m-%d %H:%M} UTC")
    return pair


def root_of(chain: bytes) -> bytes:
    """Return the last certificate of a chain as PEM when it is its own issuer, else nothing."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    last = load_pem_x509_certificates(chain)[-1]
    return last.public_bytes(Encoding.PEM) if last.issuer == last.subject else b""


def uncovered(certificate: Certificate, hosts: Sequence[str]) -> list[str]:
    """Return the host names and addresses that a certificate is not for."""
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return list(hosts)
    dns = [name.lower() for name in names.get_values_for_type(DNSName)]
    addresses = names.get_values_for_type(IPAddress)
    missing = []
    for host in hosts:
        address = address_of(host)
        if address is not None:
            covered = address in addresses
        else:
            lower = host.lower().rstrip(".")
            covered = lower in dns or f"*.{lower.partition('.')[2]}" in dns
        if not covered:
            missing.append(host)
    return missing


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def endpoint_host(endpoint: str) -> str:
    """Return the host of `host:port`, `[address]:port` or a bare host."""
    if endpoint.startswith("["):
        return endpoint[1:].partition("]")[0]
    host, colon, port = endpoint.rpartition(":")
    return host if colon and port.isdigit() and ":" not in host else endpoint
