"""Router configs: which lab a router on a machine of its own joins, and what it serves."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from .account import AccountConfig, folder_of

__all__ = ["RouterCertificate", "RouterConfigV1Alpha1"]


class RouterCertificate(BaseModel):
    """A certificate that is looked after by others; the files are read again when they change."""

    model_config = ConfigDict(extra="forbid")

    certificate: Path
    """PEM, with what leads to the root."""
    key: Path
    """PEM, without passphrase."""


class RouterConfigV1Alpha1(AccountConfig):
    """The config of a router."""

    FOLDER: ClassVar[Path] = folder_of("routers")
    WORD: ClassVar[str] = "Router"
    ADVICE: ClassVar[str] = "'jmp admin create router NAME --save' makes one"

    kind: Literal["RouterConfig"] = Field(default="RouterConfig")
    listen: str = "127.0.0.1:8083"
    """Address to listen on, `host:port`."""
    advertise: str = ""
    """Where peers reach the router, `host:port`; empty for the address that it listens on."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Exporters with the same labels are served by this router first."""
    drain: float = Field(default=30.0, ge=0)
    """Seconds that open streams get for ending when the router is told to end."""
    certificate: RouterCertificate | None = None
    """None for one that the controller issues."""
