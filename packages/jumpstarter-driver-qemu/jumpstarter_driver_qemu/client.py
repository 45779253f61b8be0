"""Client of QEMU machines: what a virtual board offers beyond its children."""

from __future__ import annotations

import base64
import os
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client.flasher import FlasherClient, PathLike
from jumpstarter_driver_composite.client import CompositeClient

if TYPE_CHECKING:
    from fabric import Connection  # type: ignore[import-untyped]


@dataclass(kw_only=True)
class QemuFlasherClient(FlasherClient):
    """Flashes the disks and the firmware of a machine that is off."""

    def flash(
        self,
        path: PathLike | Mapping[str, PathLike],
        *,
        target: str | None = None,
        compression: Any = None,
        partition: str | None = None,
    ) -> Any:
        """Write an image to the machine: a file, an http(s) URL, or an `oci://` URL that the exporter fetches."""
        if isinstance(path, str) and path.startswith("oci://"):
            return self.flash_oci(path, target if target is not None else partition)
        return super().flash(path, target=target, compression=compression, partition=partition)

    def flash_oci(
        self,
        oci_url: str,
        partition: str | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
    ) -> int:
        """Have the exporter write an image from a registry, and print what it says meanwhile; return 0.

        Credentials are those given, else `OCI_USERNAME` and `OCI_PASSWORD` of this process, else the exporter's own.

        Raises:
            DriverError: it failed; the message says why.
        """
        username = username or os.environ.get("OCI_USERNAME")
        password = password or os.environ.get("OCI_PASSWORD")
        status = 0
        with closing(self.streamingcall("flash_oci", oci_url, partition, username, password)) as items:
            for out, err, code in items:
                if out:
                    click.echo(out, nl=False)
                if err:
                    click.echo(err, nl=False, err=True)
                if code is not None:
                    status = int(code)
        return status


@dataclass(kw_only=True)
class QemuClient(CompositeClient):
    """A virtual machine. Its parts are children: power, flasher, console, vnc, ssh, and the port forwards by name."""

    @property
    def hostname(self) -> str:
        """The host name that the guest is given."""
        return str(self.call("get_hostname"))

    @property
    def username(self) -> str:
        """The name of the user that the guest is given."""
        return str(self.call("get_username"))

    @property
    def password(self) -> str:
        """The password of that user."""
        return str(self.call("get_password"))

    def set_disk_size(self, size: str) -> None:
        """Have the root disk grow to `size`, such as `20G`, at the next power-on."""
        self.call("set_disk_size", size)

    def set_memory_size(self, size: str) -> None:
        """Give the machine `size` of memory, such as `2G`, at the next power-on."""
        self.call("set_memory_size", size)

    def state(self) -> str:
        """Return `off`, or QEMU's word for the state, such as `running` or `paused`."""
        return str(self.call("state"))

    def shutdown(self, timeout: float = 60) -> None:
        """Press the power button and wait until the guest has switched itself off, `timeout` seconds at most.

        Raises:
            DriverError: it hasn't in that time, or the machine is off.
        """
        self.call("shutdown", timeout)

    def reset(self) -> None:
        """Press the reset button."""
        self.call("system_reset")

    def pause(self) -> None:
        """Stop the machine where it is."""
        self.call("pause")

    def resume(self) -> None:
        """Let a paused machine go on."""
        self.call("resume")

    def screenshot(self, path: str | Path | None = None) -> bytes:
        """Return a picture of the screen as PNG, and write it to `path` if given.

        Raises:
            DriverError: the machine is off, or has no screen.
        """
        picture = b"".join(base64.b64decode(piece) for piece in self.streamingcall("screenshot"))
        if path is not None:
            Path(path).write_bytes(picture)
        return picture

    @contextmanager
    def novnc(self) -> Generator[str, None, None]:
        """Yield the URL of a page that shows the screen in a browser."""
        from jumpstarter_driver_network.adapters import NovncAdapter

        with NovncAdapter(client=self.vnc) as url:
            yield url

    @contextmanager
    def shell(self) -> Generator[Connection, None, None]:
        """Yield a fabric connection to the guest's SSH server, as the user of the guest."""
        from jumpstarter_driver_network.adapters import FabricAdapter

        with FabricAdapter(
            client=self.ssh,
            user=self.username,
            connect_kwargs={"password": self.password, "allow_agent": False, "look_for_keys": False},
        ) as connection:
            yield connection

    def cli(self) -> click.Group:
        """Return the `j` group: the children's commands, and those of the machine itself."""
        base = super().cli()

        @base.command()
        def state() -> None:
            """Print off, running, paused or another state."""
            click.echo(self.state())

        @base.command()
        @click.option("--timeout", type=click.FloatRange(0, 3600, min_open=True), default=60, show_default=True)
        def shutdown(timeout: float) -> None:
            """Press the power button and wait until the guest is off."""
            self.shutdown(timeout)

        @base.command()
        def reset() -> None:
            """Press the reset button."""
            self.reset()

        @base.command()
        def pause() -> None:
            """Stop the machine where it is."""
            self.pause()

        @base.command()
        def resume() -> None:
            """Let a paused machine go on."""
            self.resume()

        @base.command()
        @click.argument(
            "file", type=click.Path(dir_okay=False, writable=True, path_type=Path), default="screenshot.png"
        )
        def screenshot(file: Path) -> None:
            """Write a picture of the screen to FILE (PNG)."""
            self.screenshot(file)
            click.echo(str(file))

        self._add_resize(base)
        return base

    def _add_resize(self, base: Any) -> None:
        @base.group()
        def resize() -> None:
            """Change the size of the disk or the memory, from the next power-on."""

        @resize.command()
        @click.argument("size")
        def disk(size: str) -> None:
            """Grow the root disk to SIZE, such as 20G."""
            self.set_disk_size(size)

        @resize.command()
        @click.argument("size")
        def memory(size: str) -> None:
            """Give the machine SIZE of memory, such as 2G."""
            self.set_memory_size(size)
