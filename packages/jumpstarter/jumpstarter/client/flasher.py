"""Client of drivers that write images to a device and read them back, with the `flash` and `dump` commands."""

from __future__ import annotations

import os
from abc import ABCMeta, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import EndOfStream, open_file
from anyio import Path as AsyncPath
from anyio.abc import ObjectStream
from anyio.streams.file import FileReadStream

from jumpstarter.common.exceptions import ArgumentError, FileNotFoundError

from .adapters import blocking
from .base import DriverClient

if TYPE_CHECKING:
    import click

__all__ = ["FlasherClient", "FlasherClientInterface"]

CHUNK_SIZE = 64 * 1024
"""Bytes that are read from a file at a time."""

PathLike = str | os.PathLike[str]


class FlasherClientInterface(metaclass=ABCMeta):
    """What clients of flashing drivers offer."""

    @abstractmethod
    def flash(
        self, path: PathLike | Mapping[str, PathLike], *, target: str | None = None, compression: Any = None
    ) -> Any:
        """Write an image to the device."""

    @abstractmethod
    def dump(self, path: PathLike, *, target: str | None = None, compression: Any = None) -> Any:
        """Read an image from the device."""

    def cli(self) -> click.Group:
        """Return the click group with `flash` and `dump`."""
        from .decorators import driver_click_group

        client: Any = self

        @driver_click_group(client)
        def base() -> None:
            """Write images to the device and read them back."""

        add_commands(self, base)
        return base


@dataclass(kw_only=True)
class FlasherClient(FlasherClientInterface, DriverClient):
    """Writes images to a device and reads them back."""

    def flash(
        self,
        path: PathLike | Mapping[str, PathLike],
        *,
        target: str | None = None,
        compression: Any = None,
        partition: str | None = None,
    ) -> Any:
        """Write an image to the device.

        Args:
            path: a file, an http(s) URL that the exporter fetches by itself, or several of them by their target.
            target: which part of the device; `partition` is an older name of this.
            compression: how the file is compressed (gzip, xz, bz2 or zstd); the exporter unpacks it.

        Returns:
            What the driver returns; for several images a dict of it.

        Raises:
            ArgumentError: `target` is given beside several images.
            FileNotFoundError: there is no such file; nothing was written.
            DriverError: the driver failed.
        """
        target = _one_of(target, partition)
        if not isinstance(path, Mapping):
            return self._flash_one(path, target, compression)
        if target is not None:
            raise ArgumentError("'target' parameter is not valid when flashing several images: each names its own")
        # Before anything is written: a missing second image must not leave the device half done.
        for image in path.values():
            _parse_path(image, must_exist=True)
        return {name: self._flash_one(image, name, compression) for name, image in path.items()}

    def _flash_one(self, path: PathLike, target: str | None, compression: Any) -> Any:
        with self._handle(path, "rb", compression) as handle:
            return self.call("flash", handle, target)

    def dump(
        self,
        path: PathLike,
        *,
        target: str | None = None,
        compression: Any = None,
        partition: str | None = None,
    ) -> Any:
        """Read an image from the device.

        Args:
            path: file to write, or an http(s) URL that the exporter uploads to by itself.
            target: which part of the device; `partition` is an older name of this.
            compression: how to compress the file (gzip, xz, bz2 or zstd).

        Raises:
            DriverError: the driver failed; the file holds what came before that.
        """
        with self._handle(path, "wb", compression) as handle:
            return self.call("dump", handle, _one_of(target, partition))

    def _handle(self, path: PathLike, mode: str, compression: Any) -> AbstractContextManager[Any]:
        local, url = _parse_path(path, must_exist=mode == "rb")
        if local is not None:
            return _local_file_adapter(client=self, path=local, mode=mode, compression=compression)
        return _http_url_adapter(client=self, url=str(url), mode=mode, compression=compression)


def _one_of(target: str | None, partition: str | None) -> str | None:
    if target is not None and partition is not None and target != partition:
        raise ArgumentError("'target' and 'partition' are two names of the same; give one of them")
    return target if target is not None else partition


def _parse_path(path: PathLike, *, must_exist: bool = False) -> tuple[Path | None, str | None]:
    """Return the path of a local file or an http(s) URL."""
    text = os.fspath(path)
    if text.lower().startswith(("http://", "https://")):
        return None, text
    local = Path(text).expanduser()
    if must_exist and not local.is_file():
        problem = "is no file" if local.exists() else "does not exist"
        raise FileNotFoundError(f"the image '{local}' {problem}")
    return local, None


@blocking
@asynccontextmanager
async def _http_url_adapter(
    *, client: DriverClient, url: str, mode: str, compression: Any = None
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a handle by which the exporter does the transfer itself."""
    if compression is not None:
        client.logger.warning("the compression parameter is ignored for URLs: %s", _without_query(url))
    yield {
        "kind": "presigned_request",
        "headers": {},
        "url": url,
        "method": "GET" if mode == "rb" else "PUT",
    }


def _without_query(url: str) -> str:
    """The query of a presigned URL is a secret."""
    return url.partition("?")[0]


@blocking
@asynccontextmanager
async def _local_file_adapter(
    *, client: DriverClient, path: Path, mode: str, compression: Any = None
) -> AsyncGenerator[Any, None]:
    """Yield a handle of a file on this machine."""
    encoding = None if compression is None else str(getattr(compression, "value", compression))
    stream: ObjectStream[bytes]
    if mode == "rb":
        async with await FileReadStream.from_path(path) as source:
            total = (await AsyncPath(path).stat()).st_size
            stream = _FileReadObjectStream(source=source, total=total)
            async with client.resource_async(stream, content_encoding=encoding) as handle:
                yield handle
    else:
        async with (
            await open_file(path, "wb") as file,
            client.resource_async(_FileWriteObjectStream(file=file), content_encoding=encoding) as handle,
        ):
            yield handle


@dataclass(kw_only=True)
class _FileReadObjectStream(ObjectStream[bytes]):
    """A file to upload; nothing can be sent to it."""

    source: FileReadStream
    total: int

    async def receive(self) -> bytes:
        return await self.source.receive(CHUNK_SIZE)

    async def send(self, item: bytes) -> None:
        """Drop what a driver sends back: an upload has no use for it, and failing would end it."""

    async def send_eof(self) -> None:
        """Nothing is sent to the file, so there is nothing to end."""

    async def aclose(self) -> None:
        await self.source.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        from jumpstarter.streams.progress import ProgressAttribute

        return {ProgressAttribute.total: lambda: float(self.total)}


@dataclass(kw_only=True)
class _FileWriteObjectStream(ObjectStream[bytes]):
    """A file to download into; its receiving side ends at once."""

    file: Any
    eof: bool = field(default=False, init=False)

    async def receive(self) -> bytes:
        raise EndOfStream

    async def send(self, item: bytes) -> None:
        await self.file.write(item)

    async def send_eof(self) -> None:
        if not self.eof:
            self.eof = True
            await self.file.flush()

    async def aclose(self) -> None:
        await self.file.aclose()


def add_commands(client: Any, group: click.Group) -> None:
    """Add the commands `flash` and `dump` of a flasher client to a group."""
    import click

    compression = click.option(
        "--compression",
        type=click.Choice(["gzip", "xz", "bz2", "zstd"], case_sensitive=False),
        default=None,
        help="How the image file is compressed.",
    )

    @group.command()
    @click.argument("file", required=False)
    @click.option(
        "-t",
        "--target",
        "targets",
        multiple=True,
        metavar="NAME[:FILE]",
        help="Which part of the device; with a file, once per image.",
    )
    @click.option("--partition", help="Older name of --target.")
    @compression
    def flash(file: str | None, targets: tuple[str, ...], partition: str | None, compression: str | None) -> None:
        """Write an image to the device: FILE is a file or an http(s) URL."""
        if partition is not None:
            targets = (*targets, partition)
        if file is None:
            client.flash(_images(targets), compression=compression)
        else:
            client.flash(file, target=_single_target(targets), compression=compression)

    @group.command()
    @click.argument("file")
    @click.option("-t", "--target", "--partition", "target", help="Which part of the device.")
    @compression
    def dump(file: str, target: str | None, compression: str | None) -> None:
        """Read an image from the device: FILE is a file or an http(s) URL."""
        client.dump(file, target=target, compression=compression)


def _images(targets: tuple[str, ...]) -> dict[str, str]:
    """Return the images by their target, from `name:file` pairs."""
    import click

    if not targets:
        raise click.UsageError("a FILE argument is required, or --target NAME:FILE once per image")
    images = {}
    for pair in targets:
        name, colon, path = pair.partition(":")
        if not colon or not name or not path:
            raise click.UsageError(f"Invalid target spec '{pair}', expected name:file")
        images[name] = path
    return images


def _single_target(targets: tuple[str, ...]) -> str | None:
    import click

    if len(targets) > 1:
        raise click.UsageError("with a FILE argument only one --target can be given; else use --target NAME:FILE")
    return targets[0] if targets else None
