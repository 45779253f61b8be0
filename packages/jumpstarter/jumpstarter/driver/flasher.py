"""What a driver implements that writes images to a device and reads them back."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any


class FlasherInterface(metaclass=ABCMeta):
    """Mixin of drivers that flash; sources and targets are resource handles for `Driver.resource`."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter.client.flasher.FlasherClient"

    @abstractmethod
    def flash(self, source: Any, target: str | None = None) -> Any:
        """Write the image behind the handle `source` to the device.

        Args:
            source: resource handle to read from.
            target: which part of the device; None for the whole, or the default one.
        """

    @abstractmethod
    def dump(self, target: Any, partition: str | None = None) -> Any:
        """Read an image from the device.

        Args:
            target: resource handle to write to.
            partition: which part of the device; None for the whole, or the default one.
        """
