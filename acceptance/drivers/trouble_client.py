"""The `j` commands of the drivers that fail, block and stream on request."""

from __future__ import annotations

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group


class TroubleClient(DriverClient):
    """Passes requests on."""

    def cli(self) -> click.Group:
        @driver_click_group(self)
        def base() -> None:
            """Failures on request."""

        for name in ("ping", "block", "release"):
            base.command(name)(lambda name=name: click.echo(self.call(name)))

        for name in ("drip", "fail_midway"):

            @base.command(name.replace("_", "-"))
            def items(name: str = name) -> None:
                for item in self.streamingcall(name):
                    click.echo(item)

        @base.command()
        @click.argument("kind")
        @click.argument("text", default="")
        def fail(kind: str, text: str) -> None:
            self.call("fail", kind, text)

        @base.command()
        def open_broken() -> None:
            with self.stream("broken") as stream:
                stream.receive()

        return base
