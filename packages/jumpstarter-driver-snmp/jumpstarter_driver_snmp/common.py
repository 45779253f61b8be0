"""Names that the SNMP driver and its users share: protocols, versions and the error."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from jumpstarter.common.exceptions import JumpstarterException


class AuthProtocol(StrEnum):
    """How SNMPv3 messages are authenticated (RFC 3414, RFC 7860)."""

    NONE = "NONE"
    MD5 = "MD5"
    SHA = "SHA"
    SHA224 = "SHA224"
    SHA256 = "SHA256"
    SHA384 = "SHA384"
    SHA512 = "SHA512"


class PrivProtocol(StrEnum):
    """How SNMPv3 messages are encrypted (RFC 3414, RFC 3826; AES256 as Cisco and many others derive its key)."""

    NONE = "NONE"
    DES = "DES"
    AES = "AES"
    AES256 = "AES256"


class Version(StrEnum):
    """Version of the protocol."""

    V1 = "v1"
    V2C = "v2c"
    V3 = "v3"


class PowerState(IntEnum):
    """The values that switch an outlet when the exporter config names nothing but an `oid`."""

    OFF = 0
    ON = 1


class SNMPError(JumpstarterException):
    """The unit refused a request, or did not answer."""
