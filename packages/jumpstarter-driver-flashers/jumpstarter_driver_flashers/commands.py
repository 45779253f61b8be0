"""The `j` commands of the flasher."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .arguments import check_bearer_token, jobs_of
from .errors import FlashError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .client import BaseFlasherClient

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def add_commands(client: BaseFlasherClient, base: click.Group) -> None:
    """Add the commands to the group of the client's children."""
    _add_flash(client, base)
    _add_shells(client, base)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `flash`."""
    options = [
        click.option(
            "-t",
            "--partition",
            "partitions",
            multiple=True,
            metavar="NAME[:FILE]",
            help="Target of the bundle, or label of a partition; NAME:FILE, without FILE, for several images.",
        ),
        click.option("--target", help="Disk to write: a target of the bundle or a path such as /dev/mmcblk0."),
        click.option("--os-image-checksum", help="SHA-256 that the image must have."),
        click.option("--os-image-checksum-file", type=_FILE, help="File whose first word is that SHA-256."),
        click.option("--bmap", type=_FILE, help="Block map; one beside a local image is found by itself."),
        click.option("--no-bmap", is_flag=True, help="Write the whole image, whatever block maps there are."),
        click.option("--verify", is_flag=True, help="Read everything back from the disk and compare it."),
        click.option("--direct", is_flag=True, help="The board downloads the URL itself, past the exporter."),
        click.option(
            "--force-exporter-http", is_flag=True, help="Send images through the exporter, as is done anyway."
        ),
        click.option("--force-flash-bundle", help="Another flasher bundle for this flash."),
        click.option("--cacert", type=_FILE, help="Authorities (PEM) to trust for the URL."),
        click.option("--insecure-tls", "-k", is_flag=True, help="Trust every server."),
        click.option("--plain-http", is_flag=True, help="The registry of an oci:// URL has no TLS."),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="HTTP header for the URL."),
        click.option("--bearer", help="Bearer token for the URL."),
        click.option("--retries", type=click.IntRange(min=0), default=3, show_default=True, help="Further tries."),
        click.option("--power-off/--no-power-off", default=True, show_default=True, help="Or reboot, at the end."),
        click.option(
            "--method", type=click.Choice(["fls", "shell"]), help="Accepted; there is one method.", hidden=True
        ),
        click.option("--fls-version", hidden=True),
        click.option("--fls-binary-url", hidden=True),
        click.option("--console-debug", is_flag=True, help="Show the board's console."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _add_flash(client: BaseFlasherClient, base: click.Group) -> None:
    @base.command()
    @click.argument("file", required=False)
    @_options
    def flash(
        file: str | None,
        partitions: tuple[str, ...],
        target: str | None,
        os_image_checksum: str | None,
        os_image_checksum_file: Path | None,
        bmap: Path | None,
        no_bmap: bool,
        headers: tuple[str, ...],
        bearer: str | None,
        cacert: Path | None,
        console_debug: bool,
        **options: Any,
    ) -> None:
        """Write the image FILE to the board's disk: a local file, an http(s):// or an oci:// URL.

        It may be raw, an Android sparse image, and packed with gzip, xz, zstd or bzip2.
        """
        jobs = jobs_of(file, partitions, target)
        client.set_console_debug(console_debug)
        common = {
            **options,
            "headers": parse_headers(headers),
            "bearer_token": check_bearer_token(bearer),
            "cacert_file": cacert,
            "bmap": False if no_bmap else bmap,
        }
        with _explained():
            if len(jobs) == 1:
                path, partition, device = jobs[0]
                checksum = _checksum(os_image_checksum, os_image_checksum_file)
                client.flash(path, partition=partition, target=device, os_image_checksum=checksum, **common)
            else:
                if os_image_checksum or os_image_checksum_file or bmap:
                    raise click.UsageError("check sums and block maps go with a single FILE")
                images = {str(partition): path for path, partition, _ in jobs}
                client.flash(images, target=target, **common)


def _add_shells(client: BaseFlasherClient, base: click.Group) -> None:
    debug_option = click.option("--console-debug", is_flag=True, help="Show the board's console meanwhile.")

    @base.command()
    @debug_option
    def bootloader_shell(console_debug: bool) -> None:
        """Reboot the board into U-Boot and connect the terminal; Ctrl-B three times leaves."""
        client.set_console_debug(console_debug)
        with _explained(), client.bootloader_shell() as serial:
            _connect(serial, "=> ")

    @base.command()
    @debug_option
    def busybox_shell(console_debug: bool) -> None:
        """Boot the flasher's Linux and connect the terminal to its shell; Ctrl-B three times leaves."""
        client.set_console_debug(console_debug)
        with _explained(), client.busybox_shell() as serial:
            _connect(serial, "# ")


def _connect(serial: Any, prompt: str) -> None:
    from jumpstarter_driver_pyserial.client import Console

    click.echo(prompt, nl=False)
    Console(serial).run()


def parse_headers(specs: tuple[str, ...]) -> dict[str, str]:
    """Return the headers of `NAME: VALUE` arguments.

    Raises:
        UsageError: one has another form, or a name is there twice.
    """
    headers: dict[str, str] = {}
    for spec in specs:
        name, colon, value = spec.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"Invalid header '{spec.partition(' ')[0]}', expected 'NAME: VALUE'")
        if name.strip() in headers:
            raise click.UsageError(f"Duplicate header '{name.strip()}'")
        headers[name.strip()] = value.strip()
    return headers


def _checksum(text: str | None, path: Path | None) -> str | None:
    """Return the check sum of the two options."""
    if path is None:
        return text
    if text is not None:
        raise click.UsageError("--os-image-checksum and --os-image-checksum-file exclude each other")
    words = path.read_text(encoding="utf-8", errors="replace").split()
    if not words:
        raise click.UsageError(f"{path} holds no check sum")
    return words[0]


@contextmanager
def _explained() -> Generator[None, None, None]:
    try:
        yield
    except FlashError as error:
        raise click.ClickException(str(error)) from error
