"""Router configs: which lab a router on a machine of its own joins, and what it serves."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    token: str = Field(default="", repr=False)
    tokenFile: Path | None = None
    """File that holds the token, in place of `token`; read again for each connection."""
    listen: str = "127.0.0.1:8083"
    """Address to listen on, `host:port`."""
    advertise: str = ""
    """Where peers reach the router, `host:port`; empty for the address that it listens on."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Exporters with the same labels are served by this router first."""
    drain: float = Field(default=30.0, ge=0)
    """Seconds that open streams get for ending when the router is told to end."""
    controllers: list[str] = Field(default_factory=list)
    """Endpoints of further controllers of the same lab, where there are several: a router joins all of them."""
    every_address: bool = Field(default=False, alias="everyAddress")
    """Join a controller at each address of the endpoint's name; a headless service in Kubernetes has several."""
    certificate: RouterCertificate | None = None
    """None for one that the controller issues."""

    @model_validator(mode="after")
    def _has_token(self) -> Self:
        if bool(self.token) is (self.tokenFile is not None):
            raise ValueError("give either token or tokenFile")
        return self

    def read_token(self) -> str:
        """Return the token of the account as it is at present.

        Raises:
            ConfigurationError: the file can't be read.
        """
        if self.tokenFile is None:
            return self.token
        from jumpstarter.common.exceptions import ConfigurationError

        try:
            return self.tokenFile.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the token of the router can't be read from {self.tokenFile}: {error}") from None
