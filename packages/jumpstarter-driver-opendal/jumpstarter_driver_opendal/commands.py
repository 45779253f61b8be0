"""The `j` commands of storage, flashers and storage muxes."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click
from jumpstarter.client.decorators import driver_click_group
from jumpstarter.common.exceptions import ArgumentError

from .offer import COMPRESSIONS

if TYPE_CHECKING:
    from .client import FlasherClientInterface, OpendalClient, OpendalFile, StorageMuxClient
    from .sources import SinkStream, SourceStream

__all__ = ["add_flasher_commands", "add_mux_commands", "storage_commands"]

F = TypeVar("F", bound=Callable[..., Any])


def path_argument(function: F) -> F:
    """Add the argument PATH."""
    return click.argument("path")(function)


def via_client_option(function: F) -> F:
    """Add the option --via-client."""
    return click.option(
        "--via-client", is_flag=True, help="Fetch a URL here; without it the exporter does, which may not reach it."
    )(function)


def storage_commands(client: OpendalClient) -> click.Group:
    """The commands of a storage."""

    @driver_click_group(client)
    def base() -> None:
        """Store, fetch and list files on the exporter. Paths are relative to the root of the storage."""

    _add_transfers(base, client)
    _add_questions(base, client)
    _add_changes(base, client)
    _add_presigning(base, client)
    return base


def _add_transfers(base: click.Group, client: OpendalClient) -> None:
    @base.command()
    @path_argument
    def write_bytes(path: str) -> None:
        """Store standard input as a file."""
        from .sources import PipeStream, SourceStream

        source = sys.stdin.buffer
        stream = PipeStream(source.fileno()) if _is_pipe(source) else SourceStream(source)
        with client.open(path, "wb") as file:
            _carry(client, stream, "file_write", file)

    @base.command()
    @path_argument
    def read_bytes(path: str) -> None:
        """Write a file to standard output."""
        from .sources import SinkStream

        sink = sys.stdout.buffer
        with client.open(path, "rb") as file:
            _carry(client, SinkStream(sink), "file_read", file)
        sink.flush()

    @base.command()
    @click.argument("dst")
    @click.argument("src")
    @via_client_option
    def write_from_path(dst: str, src: str, via_client: bool) -> None:
        """Store the local file, or what the URL SRC has, as DST."""
        client.write_from_path(dst, src, via_client=via_client)

    @base.command()
    @click.argument("src")
    @click.argument("dst")
    def read_into_path(src: str, dst: str) -> None:
        """Fetch SRC into the local file DST."""
        client.read_into_path(src, dst)


def _is_pipe(file: Any) -> bool:
    """Whether a file is a pipe or terminal, as opposed to a regular file or a buffer of a test."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file.fileno())


def _carry(client: OpendalClient, stream: SourceStream | SinkStream, method: str, file: OpendalFile) -> None:
    """Call `file_read` or `file_write` with a stream; raises what went wrong with the stream itself."""
    try:
        with client.portal.wrap_async_context_manager(client.resource_async(stream)) as handle:
            client.call(method, file.fd, handle)
    finally:
        if stream.failure is not None:
            raise stream.failure


def _add_questions(base: click.Group, client: OpendalClient) -> None:
    @base.command()
    @path_argument
    def stat(path: str) -> None:
        """Tell what is known of a path, as JSON."""
        click.echo(client.stat(path).model_dump_json(indent=2, by_alias=True))

    @base.command()
    @path_argument
    @click.option("--algo", type=click.Choice(["md5", "sha256"]), default="sha256", show_default=True)
    def hash(path: str, algo: Any) -> None:
        """Print the hash of a file."""
        click.echo(client.hash(path, algo))

    @base.command()
    @path_argument
    @click.pass_context
    def exists(context: click.Context, path: str) -> None:
        """Say by the exit status whether there is a file or directory: 0 yes, 1 no."""
        if not client.exists(path):
            click.echo(f"{path!r} does not exist", err=True)
            context.exit(1)

    def show(entries: Callable[[Any], Any]) -> Callable[[str], None]:
        def command(path: str) -> None:
            for entry in entries(path):
                click.echo(entry)

        return command

    for name, method, text in (
        ("list", client.list, "List one directory."),
        ("ls", client.list, "List one directory; the same as list."),
        ("scan", client.scan, "List a directory and all below it."),
    ):
        argument = click.argument("path", default="/")
        base.command(name=name, help=text)(argument(show(method)))

    @base.command()
    def capability() -> None:
        """Tell what the storage can do, as JSON."""
        click.echo(json.dumps(asdict(client.capability()), indent=2))


def _add_changes(base: click.Group, client: OpendalClient) -> None:
    @base.command()
    @click.argument("source")
    @click.argument("target")
    def copy(source: str, target: str) -> None:
        """Copy a file."""
        client.copy(source, target)

    @base.command()
    @click.argument("source")
    @click.argument("target")
    def rename(source: str, target: str) -> None:
        """Rename, or move, a file or directory."""
        client.rename(source, target)

    @base.command()
    @path_argument
    def remove_all(path: str) -> None:
        """Remove a file, or a directory with all it holds."""
        client.remove_all(path)

    @base.command()
    @path_argument
    def create_dir(path: str) -> None:
        """Create a directory and those above it. PATH ends with a slash."""
        client.create_dir(path)

    @base.command()
    @path_argument
    def delete(path: str) -> None:
        """Remove a file or an empty directory."""
        client.delete(path)


def _add_presigning(base: click.Group, client: OpendalClient) -> None:
    def show(method: Callable[[Any, int], Any]) -> Callable[[str, int], None]:
        def command(path: str, expire_second: int) -> None:
            click.echo(method(path, expire_second).model_dump_json(indent=2))

        return command

    for name, method, text in (
        ("presign-stat", client.presign_stat, "Make a request that tells about a file."),
        ("presign-read", client.presign_read, "Make a request that downloads a file."),
        ("presign-write", client.presign_write, "Make a request that uploads a file."),
    ):
        expire = click.option(
            "--expire-second", type=click.IntRange(min=1), required=True, help="Seconds until the request expires."
        )
        base.command(name=name, help=text)(path_argument(expire(show(method))))


def add_flasher_commands(base: click.Group, client: FlasherClientInterface) -> None:
    """Add `flash` and `dump` to a group."""
    compression_option = click.option(
        "--compression",
        type=click.Choice(COMPRESSIONS, case_sensitive=False),
        help="How the file is compressed; the device gets, and gives, plain bytes.",
    )
    partition_option = click.option("--partition", help="Part of the device; the older name of --target.")

    @base.command()
    @click.argument("file", required=False)
    @click.option(
        "-t",
        "--target",
        "targets",
        multiple=True,
        help="Part of the device that FILE is for; without FILE, name:file, and any number of them.",
    )
    @partition_option
    @compression_option
    @via_client_option
    def flash(
        file: str | None, targets: tuple[str, ...], partition: str | None, compression: str | None, via_client: bool
    ) -> None:
        """Write the image FILE, a local path or a URL, to the device."""
        # Clients of other drivers may not know this keyword.
        options: dict[str, Any] = {"via_client": True} if via_client else {}
        if file is None:
            if partition is not None:
                raise ArgumentError("FILE argument is required with --partition")
            client.flash(images_of(targets), compression=compression, **options)
            return
        if len(targets) > 1:
            raise ArgumentError("FILE goes to one target; give several as --target name:file, without FILE")
        target = targets[0] if targets else None
        client.flash(file, target=target, partition=partition, compression=compression, **options)

    @base.command()
    @click.argument("file")
    @click.option("-t", "--target", help="Part of the device to read.")
    @partition_option
    @compression_option
    def dump(file: str, target: str | None, partition: str | None, compression: str | None) -> None:
        """Read the device into the local file FILE."""
        client.dump(file, target=target, partition=partition, compression=compression)


def images_of(specs: tuple[str, ...]) -> dict[str, str]:
    """The images by target of `name:file` arguments.

    Raises:
        ArgumentError: there are none, or one has another form.
    """
    if not specs:
        raise ArgumentError("FILE argument is required, or at least one --target name:file")
    images: dict[str, str] = {}
    for spec in specs:
        name, colon, file = spec.partition(":")
        if not (name and colon and file):
            raise ArgumentError(f"Invalid target spec '{spec}', expected name:file")
        if name in images:
            raise ArgumentError(f"target {name!r} is given twice")
        images[name] = file
    return images


def add_mux_commands(base: click.Group, client: StorageMuxClient) -> None:
    """Add the commands of a storage mux to a group."""

    @base.command()
    def host() -> None:
        """Connect the medium to the exporter."""
        client.host()

    @base.command()
    def dut() -> None:
        """Connect the medium to the device."""
        client.dut()

    @base.command()
    def off() -> None:
        """Disconnect the medium."""
        client.off()

    @base.command()
    @click.argument("file")
    def write_local_file(file: str) -> None:
        """Write the local file, or what the URL FILE has, to the medium."""
        client.write_local_file(file)

    @base.command()
    @click.argument("file")
    def read_local_file(file: str) -> None:
        """Read the medium into the local file FILE."""
        client.read_local_file(file)
