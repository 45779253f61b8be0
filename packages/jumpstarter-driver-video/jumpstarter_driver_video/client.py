"""Client of video drivers, with the `j` commands."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverError
from jumpstarter.client.decorators import driver_click_group

if TYPE_CHECKING:
    from PIL.Image import Image

    from .common import VideoState

__all__ = ["VideoClient"]


@dataclass(kw_only=True)
class VideoClient(DriverClient):
    """Looks at what a camera or a screen grabber shows."""

    def state(self) -> VideoState:
        """Return what the source does at the moment."""
        from .common import VideoState

        return VideoState.model_validate(self.call("state"))

    def snapshot(self) -> Image:
        """Return a picture as it is now.

        Raises:
            DriverError: there is none; the message says why.
        """
        from io import BytesIO

        from PIL import Image, UnidentifiedImageError

        data = self.snapshot_bytes()
        try:
            image = Image.open(BytesIO(data))
            image.load()
        except (UnidentifiedImageError, OSError) as error:
            raise DriverError(f"the source delivered a damaged picture of {len(data)} bytes: {error}") from error
        return image

    def snapshot_bytes(self) -> bytes:
        """Return a picture as it is now, as a JPEG file.

        Raises:
            DriverError: there is none; the message says why.
        """
        return self.portal.call(self.snapshot_bytes_async)

    async def snapshot_bytes_async(self) -> bytes:
        """Return a picture as it is now, as a JPEG file; for use on the event loop."""
        from .common import MAX_PICTURE

        picture = bytearray()
        try:
            pieces = cast("AsyncGenerator[str, None]", self.streamingcall_async("snapshot_chunks"))
            async for piece in pieces:
                picture += base64.b64decode(piece)
                if len(picture) > MAX_PICTURE:
                    raise DriverError(f"the picture is larger than {MAX_PICTURE} bytes")
        except DriverError as error:
            # Published exporters have the unary call only.
            status = getattr(error.__cause__, "code", None)
            if status is None or status().name not in ("NOT_FOUND", "UNIMPLEMENTED"):
                raise
            return base64.b64decode(await self.call_async("snapshot"))
        return bytes(picture)

    def stream_path(self) -> str:
        """Return the path of the live stream, for HTTP requests over `stream()`."""
        return self.portal.call(self.stream_path_async)

    async def stream_path_async(self) -> str:
        """Return the path of the live stream; for use on the event loop."""
        return str(await self.call_async("stream_path"))

    def player(self, port: int = 0) -> AbstractContextManager[str]:
        """Serve a page with the live picture on a loopback port; yields its URL.

        Args:
            port: 1 to 65535, or 0 for a free port.

        Raises:
            OSError: the port can't be had.
        """
        from .player import VideoPlayer

        return VideoPlayer(client=self, port=port)

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Pictures of the device."""

        self._add_state(base)

        @base.command()
        @click.option(
            "--output",
            "-o",
            type=click.File("wb", lazy=True),
            default="snapshot.jpg",
            show_default=True,
            metavar="FILE",
            help="Where to write the JPEG file; - is standard output.",
        )
        def snapshot(output: BinaryIO) -> None:
            """Take a picture."""
            # The file is opened at the first write: not before there is a picture.
            picture = self.snapshot_bytes()
            output.write(picture)
            if output.name != "-":
                click.echo(output.name)

        @base.command()
        @click.option(
            "--port",
            "-p",
            type=click.IntRange(0, 65535),
            default=0,
            show_default=True,
            help="Local port of the page, 0 for a free one.",
        )
        @click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page in the browser.")
        def stream(port: int, browser: bool) -> None:
            """Serve a page with the live picture, until interrupted."""
            try:
                with self.player(port) as url:
                    show_page(url, browser)
                    threading.Event().wait()
            except OSError as error:
                raise click.ClickException(error.strerror or str(error)) from error

        return base

    def _add_state(self, base: Any) -> None:
        @base.command()
        @click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
        def state(as_json: bool) -> None:
            """Print whether the source delivers pictures, their size and rate."""
            found = self.state()
            if as_json:
                click.echo(json.dumps(found.model_dump(mode="json")))
                return
            click.echo("online" if found.online else "offline")
            if found.reason:
                click.echo(f"reason: {found.reason}")
            if found.width and found.height:
                click.echo(f"resolution: {found.width}x{found.height}")
            if found.online and found.fps:
                click.echo(f"fps: {found.fps:g}")


def show_page(url: str, browser: bool) -> None:
    """Print where a page is, and open it if asked to."""
    from .browser import open_page

    click.echo(url)
    if browser and not open_page(url):
        print("no browser to open it with: open this address yourself", file=sys.stderr)
