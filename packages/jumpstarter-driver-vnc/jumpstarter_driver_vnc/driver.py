"""The VNC driver: a screen, behind a network driver that leads to its VNC server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export

__all__ = ["Vnc"]


@dataclass(kw_only=True)
class Vnc(Driver):
    """A VNC server, behind the child `tcp`."""

    driver_type: ClassVar[str] = "video"

    default_encrypt: bool = False
    """Have viewers elsewhere, such as that of novnc.com, ask for TLS on the way to the client's own port."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "tcp" not in self.children:
            raise ConfigurationError(
                "'tcp' child is required via ref, or directly as a network driver instance: the way to the VNC server"
            )
        if not isinstance(self.default_encrypt, bool):
            raise ConfigurationError(f"default_encrypt must be true or false, not {self.default_encrypt!r}")

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_vnc.client.VNClient"

    @export(watch=True)
    async def get_default_encrypt(self) -> bool:
        """Return whether viewers ask for TLS unless the caller says otherwise."""
        return self.default_encrypt
