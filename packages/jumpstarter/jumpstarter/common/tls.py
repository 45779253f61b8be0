"""How the certificate of a controller, router or exporter is checked."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

PEM_MARK = "-----BEGIN "
LONGEST_PATH = 4096
HINT = "give base64 of PEM certificates, PEM text or the absolute path of a PEM file"


class TLSConfigV1Alpha1(BaseModel):
    """Trust settings of a TLS connection."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    ca: str = Field(default="")
    """Base64 of the PEM certificates to trust; empty means those of the system.

    PEM text and the absolute path of a PEM file are accepted as well and converted.
    """

    insecure: bool = Field(default=False)
    """Trust whatever certificate the server presents."""

    @field_validator("ca")
    @classmethod
    def _encode_ca(cls, value: str) -> str:
        text = value.strip()
        if not text:
            return ""
        if text.startswith(PEM_MARK):
            return base64.b64encode(text.encode() + b"\n").decode()
        packed = "".join(text.split())
        if _is_base64(packed, of=PEM_MARK.encode()):
            return packed
        if text.startswith(("/", "~")) and len(text) <= LONGEST_PATH and text.isprintable():
            path = Path(text).expanduser()
            if path.exists() or not _is_base64(packed):
                return base64.b64encode(_read_pem(path)).decode()
        if _is_base64(packed):
            return packed
        raise ValueError(f"not base64; {HINT}")


def _is_base64(text: str, of: bytes = b"") -> bool:
    try:
        return of in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False


def _read_pem(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"can't read '{path}' ({error.strerror}); {HINT}") from None
    if PEM_MARK.encode() not in content:
        raise ValueError(f"file '{path}' holds no PEM certificate; {HINT}")
    return content
