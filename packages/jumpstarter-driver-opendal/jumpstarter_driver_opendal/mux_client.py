"""Client of a storage mux: a medium that is connected either to the exporter or to the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group

from .offer import offer

if TYPE_CHECKING:
    from opendal import Operator

    from .common import PathBuf

__all__ = ["StorageMuxClient"]


@dataclass(kw_only=True)
class StorageMuxClient(DriverClient):
    """A medium that is connected either to the exporter or to the device."""

    def host(self) -> Any:
        """Connect the medium to the exporter."""
        return self.call("host")

    def dut(self) -> Any:
        """Connect the medium to the device."""
        return self.call("dut")

    def off(self) -> Any:
        """Disconnect the medium."""
        return self.call("off")

    def write(self, handle: Any) -> Any:
        """Write the bytes of a resource to the medium."""
        return self.call("write", handle)

    def read(self, handle: Any) -> Any:
        """Read the medium into a resource."""
        return self.call("read", handle)

    def write_file(self, operator: Operator, path: PathBuf) -> Any:
        """Write a file of an operator to the medium."""
        with offer(self, path, operator, "rb") as handle:
            return self.write(handle)

    def read_file(self, operator: Operator, path: PathBuf) -> Any:
        """Read the medium into a file of an operator."""
        with offer(self, path, operator, "wb") as handle:
            return self.read(handle)

    def write_local_file(self, filepath: PathBuf) -> Any:
        """Write a local file, or what an `http(s)://` URL has, to the medium."""
        with offer(self, filepath, None, "rb") as handle:
            return self.write(handle)

    def read_local_file(self, filepath: PathBuf) -> Any:
        """Read the medium into a local file, which appears when it is complete."""
        with offer(self, filepath, None, "wb") as handle:
            return self.read(handle)

    def cli(self, base: click.Group | None = None) -> click.Group:
        """Return the `j` commands of a storage mux, added to `base` if that is given."""
        from .commands import add_mux_commands

        if base is None:

            @driver_click_group(self, name="base")
            def group() -> None:
                """Connect a medium to the exporter or to the device, and write it."""

            base = group
        add_mux_commands(base, self)
        return base
