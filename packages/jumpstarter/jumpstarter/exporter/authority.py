"""A certificate authority that lives as long as a lease, in memory alone."""

from __future__ import annotations

import datetime
from typing import Any

from jumpstarter.common.direct_tls import SERVER_NAME

__all__ = ["LeaseAuthority"]

BACKDATED = datetime.timedelta(days=2)
LIFE = datetime.timedelta(days=3660)
"""Validity of the certificates: they are worth nothing once their lease is over, and clocks may differ widely."""


class LeaseAuthority:
    """Makes the certificates of one lease."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Jumpstarter lease")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        usage = _usage(signs_certificates=True)
        self._certificate = self._sign(self._name, self._key.public_key(), [(constraints, True), (usage, True)])
        self.certificate = _pem(self._certificate)
        """That of the authority itself, PEM."""

    def exporter(self) -> tuple[str, str]:
        """Return a certificate and a key for the exporter, PEM."""
        from cryptography import x509

        names = x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)])
        return self._issue("exporter", x509.ExtendedKeyUsageOID.SERVER_AUTH, [(names, False)])

    def client(self, name: str) -> tuple[str, str]:
        """Return a certificate and a key for a client, PEM; the certificate bears `name`."""
        from cryptography import x509

        return self._issue(name, x509.ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(self, name: str, purpose: Any, extensions: list[tuple[Any, bool]]) -> tuple[str, str]:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            _name(name),
            key.public_key(),
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_usage(signs_certificates=False), True),
                (x509.ExtendedKeyUsage([purpose]), False),
                (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
                *extensions,
            ],
        )
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(certificate), text.decode()

    def _sign(self, subject: Any, public_key: Any, extensions: list[tuple[Any, bool]]) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + LIFE)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    text: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return text.decode()
