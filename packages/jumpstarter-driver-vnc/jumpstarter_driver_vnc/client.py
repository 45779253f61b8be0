"""Client of screens: a viewer in the browser, and pictures."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import click
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter_driver_composite.client import CompositeClient

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VNClient", "VncClient"]


@dataclass(kw_only=True)
class VNClient(CompositeClient):
    """Looks at a screen, and uses it. Its child `tcp` is the connection itself."""

    def get_default_encrypt(self) -> bool:
        """Return whether viewers elsewhere ask for TLS unless the caller says otherwise."""
        try:
            return bool(self.call("get_default_encrypt"))
        except DriverMethodNotImplemented:
            return False

    @contextmanager
    def session(self, encrypt: bool | None = None, *, viewer: str | None = None) -> Generator[str, None, None]:
        """Serve a viewer on a loopback port, and yield the URL to open in a browser.

        Args:
            encrypt: for another `viewer`: have it ask for TLS on the way to the local port, which something else
                must provide there. The viewer of this package is on that port itself and needs none.
            viewer: URL of another noVNC page.
        """
        from jumpstarter_driver_network.adapters import NovncAdapter

        if viewer is None:
            encrypt = False
        elif encrypt is None:
            encrypt = self.get_default_encrypt()
        with NovncAdapter(client=self.children["tcp"], encrypt=encrypt, viewer=viewer) as url:
            yield url

    def snapshot(self, password: str | None = None, *, timeout: float = 30) -> Image:
        """Return what the screen shows.

        Args:
            password: for servers that ask for one.
            timeout: seconds that it may take.

        Raises:
            DriverError: the server can't be reached.
            ScreenError: it refuses, or is no VNC server.
            TimeoutError: it takes longer.
        """
        return self.portal.call(self._snapshot, password, timeout)

    async def _snapshot(self, password: str | None, timeout: float) -> Image:
        from .rfb import take_picture

        async with self.children["tcp"].stream_async("connect") as stream:
            return await take_picture(stream, password=password, timeout=timeout)

    def cli(self) -> click.Group:
        """Return the `j` group: the screen's own commands, and those of the connection."""
        base = super().cli()
        base.help = self.description or "Screen of the device."

        @base.command()
        @click.option("--browser/--no-browser", default=True, show_default=True, help="Open the viewer in the browser.")
        @click.option("--encrypt/--no-encrypt", default=None, help="For another viewer: have it ask for TLS.")
        @click.option("--viewer", metavar="URL", help="Use this noVNC page instead of the local one.")
        def session(browser: bool, encrypt: bool | None, viewer: str | None) -> None:
            """Serve a viewer for the browser, until interrupted."""
            try:
                with self.session(encrypt, viewer=viewer) as url:
                    click.echo(url)
                    if browser and not open_page(url):
                        print("no browser to open it with: open this address yourself", file=sys.stderr)
                    threading.Event().wait()
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="--viewer") from error

        @base.command()
        @click.option(
            "--output",
            "-o",
            type=click.File("wb", lazy=True),
            default="snapshot.png",
            show_default=True,
            metavar="FILE",
            help="Where to write the PNG file; - is standard output.",
        )
        @click.option(
            "--password",
            envvar="VNC_PASSWORD",
            show_envvar=True,
            help="For servers that ask for one; better in the environment, where nobody else sees it.",
        )
        def snapshot(output: BinaryIO, password: str | None) -> None:
            """Take a picture of the screen."""
            from .errors import PasswordNeeded

            try:
                image = self.snapshot(password)
            except PasswordNeeded as error:
                raise click.ClickException(f"{error}: set VNC_PASSWORD") from error
            file = BytesIO()
            image.save(file, "PNG")
            output.write(file.getvalue())
            if output.name != "-":
                click.echo(output.name)

        return base


VncClient = VNClient


def open_page(url: str) -> bool:
    """Open `url` in the user's browser; return False where there is no desktop to show it on."""
    if sys.platform.startswith("linux") and not {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        return False
    import webbrowser

    return webbrowser.open(url)
