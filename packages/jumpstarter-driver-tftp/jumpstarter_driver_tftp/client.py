"""Client of the TFTP server and its `j` commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from jumpstarter_driver_composite.client import CompositeClient

if TYPE_CHECKING:
    from jumpstarter_driver_opendal.client import OpendalClient
    from jumpstarter_driver_opendal.common import PathBuf
    from opendal import Operator

__all__ = ["TftpServerClient"]


@dataclass(kw_only=True)
class TftpServerClient(CompositeClient):
    """A TFTP server on the exporter; `storage` holds its files."""

    def start(self) -> None:
        """Start serving; returns when the server listens."""
        self.call("start")

    def stop(self) -> None:
        """Stop serving and end all transfers."""
        self.call("stop")

    def is_running(self) -> bool:
        """Whether the server listens."""
        return bool(self.call("is_running"))

    def get_host(self) -> str:
        """The address of the server."""
        return str(self.call("get_host"))

    def get_port(self) -> int:
        """The UDP port of the server."""
        return int(self.call("get_port"))

    @property
    def _files(self) -> OpendalClient:
        return self.children["storage"]  # type: ignore[return-value]

    def put_file(self, dst: str, src: PathBuf, operator: Operator | None = None) -> str:
        """Store a local file, what a URL has, or a file of an operator; returns the name to request."""
        self._files.write_from_path(dst, src, operator)
        return dst

    def put_local_file(self, filepath: PathBuf) -> str:
        """Store a local file under its own name, which is returned."""
        return self.put_file(Path(filepath).name, filepath)

    def list_files(self) -> list[str]:
        """The names of all files."""
        return [path for path in self._files.scan("/") if not path.endswith("/")]

    def delete_file(self, filename: str) -> None:
        """Remove a file. Missing is fine."""
        self._files.delete(filename)

    def cli(self) -> click.Group:
        """Return the `j` commands."""
        base = super().cli()

        @base.command()
        def start() -> None:
            """Start serving."""
            self.start()
            click.echo(f"{self.get_host()}:{self.get_port()}")

        @base.command()
        def stop() -> None:
            """Stop serving."""
            self.stop()

        @base.command()
        def address() -> None:
            """Print the address and port of the server."""
            click.echo(f"{self.get_host()}:{self.get_port()}")

        @base.command()
        @click.argument("src")
        @click.argument("dst", required=False)
        def put(src: str, dst: str | None) -> None:
            """Store the local file SRC, as DST or under its own name."""
            click.echo(self.put_file(dst, src) if dst else self.put_local_file(src))

        @base.command()
        @click.argument("name")
        def delete(name: str) -> None:
            """Remove a file."""
            self.delete_file(name)

        @base.command(name="ls")
        def ls() -> None:
            """List all files."""
            for name in self.list_files():
                click.echo(name)

        return base
