"""Client of the HTTP server and its `j` commands."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import click
from jumpstarter_driver_composite.client import CompositeClient

if TYPE_CHECKING:
    from jumpstarter_driver_opendal.client import OpendalClient
    from jumpstarter_driver_opendal.common import PathBuf
    from opendal import Operator

__all__ = ["HttpServerClient"]


@dataclass(kw_only=True)
class HttpServerClient(CompositeClient):
    """An HTTP file server on the exporter; `storage` holds its files."""

    def start(self) -> None:
        """Start serving; returns when the server listens."""
        self.call("start")

    def stop(self) -> None:
        """Stop serving."""
        self.call("stop")

    def is_running(self) -> bool:
        """Whether the server listens."""
        return bool(self.call("is_running"))

    def get_host(self) -> str:
        """The address of the server."""
        return str(self.call("get_host"))

    def get_port(self) -> int:
        """The TCP port that the server listens on, 0 while it is stopped."""
        return int(self.call("get_port"))

    def get_url(self) -> str:
        """The URL of the served directory, without a slash at the end."""
        return str(self.call("get_url"))

    def put_file(self, dst: PathBuf, src: PathBuf, operator: Operator | None = None) -> str:
        """Store a local file, what a URL has, or a file of an operator; returns the URL to download it from.

        Args:
            dst: path under the served directory.
            src: local path, `http(s)://` URL which the exporter fetches itself, or path of `operator`.
            operator: where `src` is, if not on this machine.
        """
        name = os.fspath(dst)
        cast("OpendalClient", self.children["storage"]).write_from_path(name, src, operator)
        return f"{self.get_url()}/{quote(name.lstrip('/'))}"

    def put_local_file(self, filepath: PathBuf) -> str:
        """Store a local file under its own name; returns the URL to download it from."""
        return self.put_file(Path(filepath).name, filepath)

    def cli(self) -> click.Group:
        """Return the `j` commands."""
        base = super().cli()

        @base.command()
        def start() -> None:
            """Start serving and print the URL."""
            self.start()
            click.echo(self.get_url())

        @base.command()
        def stop() -> None:
            """Stop serving."""
            self.stop()

        @base.command()
        def url() -> None:
            """Print the URL of the server."""
            click.echo(self.get_url())

        @base.command()
        @click.argument("src")
        @click.argument("dst", required=False)
        def put(src: str, dst: str | None) -> None:
            """Store the local file SRC, as DST or under its own name, and print its URL."""
            click.echo(self.put_file(dst, src) if dst else self.put_local_file(src))

        return base
