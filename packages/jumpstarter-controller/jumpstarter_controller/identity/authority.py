"""The small certificate authority of a lab: what peers trust, so that certificates of servers can change at will."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jumpstarter.common.exceptions import ConfigurationError

from ..clock import Clock
from .pem import Pair, address_of, read_pair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName, KeyUsage, Name

    from ..store.base import Store

SECRET = "certificate-authority"
"""Name of the secret with key and certificate."""

LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)

BACKDATED = timedelta(hours=1)
"""Certificates begin that long ago, for peers whose clocks are slow."""

LOCAL = ("localhost", "127.0.0.1", "::1")
"""What every certificate of a server is for as well."""


class Authority:
    """A certificate authority: EC P-256, for certificates of servers and nothing else."""

    def __init__(self, pair: Pair, clock: Clock) -> None:
        self._pair = pair
        self._clock = clock

    @classmethod
    async def load(cls, store: Store, clock: Clock) -> Authority:
        """Read the authority of a lab, and make it at the first time.

        Raises:
            ConfigurationError: the secret is damaged, or the authority has expired.
            Unavailable: the store can't be read or written.
        """
        value = (await store.secrets()).get(SECRET)
        if value is None:
            made = _make(clock.now())
            document = {"key": made.key.decode(), "certificate": made.chain.decode()}
            value = await store.put_secret(SECRET, json.dumps(document).encode())
        where = f"the secret {SECRET!r} in the store"
        try:
            kept = json.loads(value)
            key, certificate = kept["key"].encode(), kept["certificate"].encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigurationError(
                f"{where} can't be read. Restore the store from a backup; or delete the secret, then every config"
                " needs the new certificate"
            ) from None
        return cls(read_pair(certificate, key, clock.now(), where), clock)

    @property
    def certificate(self) -> bytes:
        """The certificate that peers trust, as PEM."""
        return self._pair.chain

    @property
    def expires(self) -> datetime:
        return self._pair.expires

    def issue(self, hosts: Sequence[str], life: timedelta = LEAF_LIFE) -> Pair:
        """Return a new key and certificate for a server, some tenths of a millisecond of work.

        Args:
            hosts: names and addresses that peers dial; those of this machine are added.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(key.public_key(), [*hosts, *LOCAL], life)
        # The authority goes along for peers that take what the server shows as what they trust.
        return Pair(_pem_key(key), _pem(certificate) + self.certificate, certificate)

    def certify(self, public_key: bytes, host: str, life: timedelta = LEAF_LIFE) -> tuple[bytes, datetime]:
        """Return the chain, as PEM, of a certificate for the key of another server, and when it expires.

        Args:
            public_key: SubjectPublicKeyInfo in DER, of a P-256 key.
            host: the one name or address that it is for.

        Raises:
            ValueError: this is not such a key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        try:
            key = load_der_public_key(public_key)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("the key is not one of the elliptic curve P-256")
        certificate = self._certify(key, [host], life)
        return _pem(certificate) + self.certificate, certificate.not_valid_after_utc

    def _certify(self, public_key: EllipticCurvePublicKey, hosts: Sequence[str], life: timedelta) -> Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509.oid import ExtendedKeyUsageOID

        now = self._clock.now()
        issuer = self._pair.certificate
        issuer_key = load_pem_private_key(self._pair.key, None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        ends = min(now + life, self._pair.expires)
        builder = _builder(_name("Jumpstarter server"), issuer.subject, public_key, now, ends)
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )


def _make(now: datetime) -> Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # The name tells authorities apart where several are trusted.
    name = _name(f"Jumpstarter lab {x509.random_serial_number():x}"[:40])
    certificate = (
        _builder(name, name, key.public_key(), now, now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(_pem_key(key), _pem(certificate), certificate)


def _builder(
    subject: Name, issuer: Name, public: EllipticCurvePublicKey, now: datetime, ends: datetime
) -> CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(text: str) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: Sequence[str]) -> list[GeneralName]:
    from cryptography import x509

    names: list[GeneralName] = []
    for host in dict.fromkeys(hosts):
        address = address_of(host)
        if address is not None:
            names.append(x509.IPAddress(address))
        elif host:
            try:
                names.append(x509.DNSName(host.encode("idna").decode()))
            except UnicodeError:
                raise ConfigurationError(f"{host!r} can't be the host of an endpoint") from None
    return names


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_key(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
