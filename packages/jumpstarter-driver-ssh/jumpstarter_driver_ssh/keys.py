"""A private key that signs: its public form, and signatures as SSH has them.

Formats: RFC 4253, 6.6 (RSA), RFC 8332 (RSA with SHA-2), RFC 5656, 3.1 (ECDSA), RFC 8709 (Ed25519).
"""

from __future__ import annotations

import base64
import struct
from typing import Any, Final

RSA_SHA2_256: Final = 2
"""Flag of a sign request (draft-ietf-sshm-ssh-agent, 3.6.1)."""

RSA_SHA2_512: Final = 4


class KeyUnusable(ValueError):
    """The private key can't be read, or is of a kind that can't be signed with here."""


def string(data: bytes) -> bytes:
    """Return a `string` of RFC 4251, 5."""
    return struct.pack(">I", len(data)) + data


def _mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1))


class SigningKey:
    """A private key.

    Args:
        text: the key as ssh-keygen writes it (OpenSSH or PEM format), without a passphrase.

    Raises:
        KeyUnusable: the message says why, and holds nothing of the key.
    """

    def __init__(self, text: str) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        data = text.strip().encode() + b"\n"
        load: Any = serialization.load_pem_private_key
        if b"BEGIN OPENSSH PRIVATE KEY" in data:
            load = serialization.load_ssh_private_key
        try:
            self._key: Any = load(data, password=None)
        except TypeError:
            raise KeyUnusable("the key is protected by a passphrase; give one without (ssh-keygen -p)") from None
        except (ValueError, UnsupportedAlgorithm):
            raise KeyUnusable("it is damaged, or no private key that can be read here") from None
        if not isinstance(self._key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise KeyUnusable("keys of this kind can't be signed with; use an ed25519, ecdsa or rsa key")
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        self.public: str = self._key.public_key().public_bytes(*form).decode()
        """Kind and key as a line of authorized_keys has them."""
        self.kind, encoded = self.public.split(" ")[:2]
        self.blob = base64.b64decode(encoded)
        """The public key as it goes over the wire."""

    def sign(self, data: bytes, flags: int) -> bytes:
        """Return a signature with its name in front."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        hash_: hashes.HashAlgorithm
        if isinstance(self._key, rsa.RSAPrivateKey):
            name, hash_ = "ssh-rsa", hashes.SHA1()
            if flags & RSA_SHA2_512:
                name, hash_ = "rsa-sha2-512", hashes.SHA512()
            elif flags & RSA_SHA2_256:
                name, hash_ = "rsa-sha2-256", hashes.SHA256()
            return string(name.encode()) + string(self._key.sign(data, padding.PKCS1v15(), hash_))
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            size = self._key.key_size
            hash_ = hashes.SHA256() if size <= 256 else hashes.SHA384() if size <= 384 else hashes.SHA512()
            r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hash_)))
            return string(self.kind.encode()) + string(_mpint(r) + _mpint(s))
        return string(self.kind.encode()) + string(self._key.sign(data))
