"""Clients of storage, flashers and storage muxes, and their `j` commands."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABCMeta, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_group
from jumpstarter.common.exceptions import ArgumentError, JumpstarterException

if TYPE_CHECKING:
    from opendal import Operator

    from .common import Capability, HashAlgo, Metadata, Mode, PathBuf, PresignedRequest

__all__ = [
    "BytesIOStream",  # noqa: F822 (loaded on demand)
    "FlasherClient",
    "FlasherClientInterface",
    "OpendalClient",
    "OpendalFile",
    "StorageMuxClient",
    "StorageMuxFlasherClient",
    "clean_filename",
    "operator_for_path",
    "path_with_query",
]

COMPRESSIONS = ("gzip", "xz", "bz2", "zstd")


def __getattr__(name: str) -> Any:
    if name == "BytesIOStream":
        from .sources import BytesIOStream

        return BytesIOStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_url(path: PathBuf) -> bool:
    return isinstance(path, str) and path.startswith(("http://", "https://"))


def operator_for_path(path: PathBuf) -> tuple[Path, Operator, str]:
    """The path, operator and scheme that stand for a local path or an `http(s)://` URL.

    The query of a URL is lost, as operators have none; give the URL itself to `flash` and the like.
    """
    from opendal import Operator

    if _is_url(path):
        parsed = urlsplit(str(path))
        return Path(parsed.path), Operator("http", endpoint=f"{parsed.scheme}://{parsed.netloc}"), "http"
    return Path(path).resolve(), Operator("fs", root="/"), "fs"


def path_with_query(parsed: Any) -> str:
    """Path and query of a parsed URL."""
    return f"{parsed.path}?{parsed.query}" if parsed.query else parsed.path


def clean_filename(path: PathBuf) -> str:
    """The name of the file that a path or URL leads to, without directories and query."""
    text = os.fspath(path)
    if _is_url(path):
        text = urlsplit(text).path
    return PurePosixPath(text.partition("?")[0]).name


def _offer(
    client: DriverClient,
    path: PathBuf,
    operator: Operator | None,
    mode: Mode,
    compression: str | None = None,
    via_client: bool = False,
) -> AbstractContextManager[Any]:
    """Offer a local file, a URL or a file of an operator to a driver call; see `OpendalAdapter`."""
    from .adapter import OpendalAdapter, local_file, url_through_client

    if operator is not None:
        return OpendalAdapter(
            client=client, operator=operator, path=os.fspath(path), mode=mode, compression=compression
        )
    if not _is_url(path):
        return _readable(local_file(client=client, path=path, mode=mode, compression=compression), path, mode)
    if mode == "wb":
        raise ArgumentError(f"can't write to {_redacted(str(path))}: give a local file, or an operator for the URL")
    if via_client or compression is not None:
        # With a presigned request nobody could undo the compression.
        return url_through_client(client=client, url=str(path), compression=compression)
    return OpendalAdapter(client=client, operator=None, path="", original_url=str(path))


@contextmanager
def _readable(offer: AbstractContextManager[Any], path: PathBuf, mode: Mode) -> Generator[Any, None, None]:
    """Say which local file could not be opened."""
    try:
        handle = offer.__enter__()
    except OSError as error:
        what = "read" if mode == "rb" else "write"
        raise ArgumentError(
            f"can't {what} the local file {os.fspath(path)!r}: {error.strerror or error}. Check the path"
        ) from None
    try:
        yield handle
    except BaseException as error:
        if not offer.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        offer.__exit__(None, None, None)


def _redacted(url: str) -> str:
    return url.partition("?")[0]


@dataclass(kw_only=True)
class OpendalFile:
    """A file that is open on the exporter. As a context manager it is closed at the end; a written one appears under
    its name then, unless an exception ends the block."""

    client: OpendalClient
    fd: UUID

    def __enter__(self) -> OpendalFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.close()
            return
        try:
            self.discard()
        except JumpstarterException as failure:
            # The error that ended the block says more; the exporter cleans up at the end of the session.
            self.client.logger.debug("a file could not be discarded: %s", failure)

    def write_from_path(self, path: PathBuf, operator: Operator | None = None, *, via_client: bool = False) -> None:
        """Append a local file, what a URL has, or a file of an operator; see `OpendalClient.write_from_path`."""
        with _offer(self.client, path, operator, "rb", via_client=via_client) as handle:
            self._write(handle)

    def _write(self, handle: Any) -> Any:
        return self.client.call("file_write", self.fd, handle)

    def read_into_path(self, path: PathBuf, operator: Operator | None = None) -> None:
        """Read from the position to the end into a local file, or a file of an operator."""
        with _offer(self.client, path, operator, "wb") as handle:
            self.client.call("file_read", self.fd, handle)

    def write_bytes(self, data: bytes) -> None:
        """Append bytes."""
        with self._stream(BytesIO(data)) as handle:
            self._write(handle)

    def read_bytes(self) -> bytes:
        """Read from the position to the end."""
        buffer = BytesIO()
        with self._stream(buffer) as handle:
            self.client.call("file_read", self.fd, handle)
        return buffer.getvalue()

    def _stream(self, buffer: BytesIO) -> AbstractContextManager[Any]:
        from .sources import BytesIOStream

        return self.client.portal.wrap_async_context_manager(self.client.resource_async(BytesIOStream(buffer)))

    def seek(self, pos: int, whence: int = os.SEEK_SET) -> int:
        """Move in a file that is read, as `io.IOBase.seek`; returns the new position in bytes."""
        return int(self.client.call("file_seek", self.fd, pos, whence))

    def tell(self) -> int:
        """The position in bytes of a file that is read."""
        return int(self.client.call("file_tell", self.fd))

    def close(self) -> None:
        """Close the file; a written one appears under its name now."""
        self.client.call("file_close", self.fd)

    def discard(self) -> None:
        """Close the file and drop what was written to it. Older exporters keep what was written."""
        try:
            self.client.call("file_discard", self.fd)
        except DriverMethodNotImplemented:
            self.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return bool(self.client.call("file_closed", self.fd))

    def readable(self) -> bool:
        """Whether the file is open for reading."""
        return bool(self.client.call("file_readable", self.fd))

    def seekable(self) -> bool:
        """Whether the position in the file can be set."""
        return bool(self.client.call("file_seekable", self.fd))

    def writable(self) -> bool:
        """Whether the file is open for writing."""
        return bool(self.client.call("file_writable", self.fd))


@dataclass(kw_only=True)
class OpendalClient(DriverClient):
    """A storage on the exporter. Paths are relative to its root; directories are written with a slash at the end."""

    def write_bytes(self, path: PathBuf, data: bytes) -> None:
        """Store bytes as a file."""
        with self.open(path, "wb") as file:
            file.write_bytes(data)

    def read_bytes(self, path: PathBuf) -> bytes:
        """The contents of a file, which must fit into memory."""
        with self.open(path, "rb") as file:
            return file.read_bytes()

    def write_from_path(
        self, dst: PathBuf, src: PathBuf, operator: Operator | None = None, *, via_client: bool = False
    ) -> None:
        """Store a local file, what a URL has, or a file of an operator.

        Args:
            dst: path in the storage.
            src: local path, `http(s)://` URL which the exporter fetches itself, or path of `operator`.
            operator: where `src` is, if not on this machine.
            via_client: fetch the URL here, as the exporter can't reach it.

        Raises:
            ArgumentError: the local file can't be read; nothing was changed then.
        """
        if operator is None and not _is_url(src):
            _check_local_source(src)
        with self.open(dst, "wb") as file:
            file.write_from_path(src, operator, via_client=via_client)

    def read_into_path(self, src: PathBuf, dst: PathBuf, operator: Operator | None = None) -> None:
        """Fetch a file into a local one, or into one of an operator. Missing local directories are made.

        Args:
            src: path in the storage.
            dst: local path, or path of `operator`.
            operator: where `dst` is, if not on this machine.
        """
        with self.open(src, "rb") as file:
            file.read_into_path(dst, operator)

    def open(self, path: PathBuf, mode: Mode) -> OpendalFile:
        """Open a file for reading (`rb`) or writing (`wb`)."""
        return OpendalFile(client=self, fd=UUID(self.call("open", _text(path), mode)))

    def stat(self, path: PathBuf) -> Metadata:
        """What is known of a path."""
        from .common import Metadata

        return Metadata.model_validate(self.call("stat", _text(path)))

    def hash(self, path: PathBuf, algo: HashAlgo = "sha256") -> str:
        """The hash of a file (`md5` or `sha256`), in hexadecimal digits."""
        return str(self.call("hash", _text(path), algo))

    def copy(self, source: PathBuf, target: PathBuf) -> None:
        """Copy a file."""
        self.call("copy", _text(source), _text(target))

    def rename(self, source: PathBuf, target: PathBuf) -> None:
        """Rename, or move, a file or directory."""
        self.call("rename", _text(source), _text(target))

    def remove_all(self, path: PathBuf) -> None:
        """Remove a file, or a directory with all it holds. Missing is fine."""
        self.call("remove_all", _text(path))

    def create_dir(self, path: PathBuf) -> None:
        """Create a directory and those above it. The path must end with a slash."""
        self.call("create_dir", _text(path))

    def delete(self, path: PathBuf) -> None:
        """Remove a file or an empty directory. Missing is fine."""
        self.call("delete", _text(path))

    def exists(self, path: PathBuf) -> bool:
        """Whether there is a file or directory."""
        return bool(self.call("exists", _text(path)))

    def list(self, path: PathBuf) -> Generator[str, None, None]:
        """The entries of one directory, itself included."""
        yield from self.streamingcall("list", _text(path))

    def scan(self, path: PathBuf) -> Generator[str, None, None]:
        """The entries of a directory and all below it, itself included."""
        yield from self.streamingcall("scan", _text(path))

    def presign_stat(self, path: PathBuf, expire_second: int) -> PresignedRequest:
        """A request that tells about a file."""
        return self._presign("presign_stat", path, expire_second)

    def presign_read(self, path: PathBuf, expire_second: int) -> PresignedRequest:
        """A request that downloads a file."""
        return self._presign("presign_read", path, expire_second)

    def presign_write(self, path: PathBuf, expire_second: int) -> PresignedRequest:
        """A request that uploads a file."""
        return self._presign("presign_write", path, expire_second)

    def _presign(self, method: str, path: PathBuf, expire_second: int) -> PresignedRequest:
        from .common import PresignedRequest

        return PresignedRequest.model_validate(self.call(method, _text(path), expire_second))

    def capability(self) -> Capability:
        """What the storage can do."""
        from .common import Capability

        return Capability.from_mapping(self.call("capability"))

    def get_created_resources(self) -> set[str]:
        """Paths of files and directories that were made in this session and still exist."""
        return set(self.call("get_created_resources"))

    def cli(self) -> click.Group:
        """Return the `j` commands of a storage."""
        from .commands import storage_commands

        return storage_commands(self)


def _text(path: PathBuf) -> str:
    return os.fspath(path)


def _check_local_source(path: PathBuf) -> None:
    """Raises: ArgumentError: the local file can't be read."""
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            with open(path, "rb"):
                return
        # Opening a pipe and closing it again would be the end for its writer.
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ArgumentError(
            f"can't read the local file {os.fspath(path)!r}: {error.strerror or error}. Check the path"
        ) from None


class FlasherClientInterface(metaclass=ABCMeta):
    """What every client that flashes has."""

    @abstractmethod
    def flash(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | Mapping[str, Operator] | None = None,
        compression: str | None = None,
    ) -> Any:
        """Write an image to the device."""

    @abstractmethod
    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | None = None,
        compression: str | None = None,
    ) -> Any:
        """Read the device into a file."""

    def cli(self) -> click.Group:
        """Return the `j` commands of a flasher."""
        from .commands import add_flasher_commands

        @driver_click_group(self)  # type: ignore[arg-type]
        def base() -> None:
            """Write images to the device and read them back."""

        add_flasher_commands(base, self)
        return base


@dataclass(kw_only=True)
class FlasherClient(FlasherClientInterface, DriverClient):
    """A flasher on the exporter."""

    def flash(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | Mapping[str, Operator] | None = None,
        compression: str | None = None,
        via_client: bool = False,
    ) -> Any:
        """Write an image to the device, or several to its parts.

        Args:
            path: local file, `http(s)://` URL which the exporter fetches itself, path of `operator`, or a mapping of
                such by target, which are written in its order.
            target: part of the device, where it has several.
            partition: the older name of `target`.
            operator: where the image is, if not on this machine; a mapping by target if `path` is one.
            compression: how the image is compressed (gzip, xz, bz2 or zstd); its plain bytes are written.
            via_client: fetch URLs here, as the exporter can't reach them.

        Returns:
            What the driver returned; for a mapping, a mapping by target.

        Raises:
            ArgumentError: the arguments contradict each other, or a local image can't be read.
        """
        target = one_target(target, partition)
        _check_compression(compression)
        if not isinstance(path, Mapping):
            if isinstance(operator, Mapping):
                raise ArgumentError("a mapping of operators needs a mapping of images, with the same targets")
            return self._flash_one(path, target, operator, compression, via_client)
        if target is not None:
            raise ArgumentError("'target' can't be combined with a mapping of images, which names the targets itself")
        if not path:
            raise ArgumentError("the mapping of images is empty: there is nothing to flash")
        operators = operator if isinstance(operator, Mapping) else dict.fromkeys(path, operator)
        for name, image in path.items():
            if operators.get(name) is None and not _is_url(image):
                _check_local_source(image)
        return {
            name: self._flash_one(image, name, operators.get(name), compression, via_client)
            for name, image in path.items()
        }

    def _flash_one(
        self,
        path: PathBuf,
        target: str | None,
        operator: Operator | None,
        compression: str | None,
        via_client: bool,
    ) -> Any:
        with _offer(self, path, operator, "rb", compression, via_client) as handle:
            return self.call("flash", handle, target)

    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | None = None,
        compression: str | None = None,
    ) -> Any:
        """Read the device, or a part of it, into a file, which appears when it is complete.

        Args:
            path: local file, or path of `operator`.
            target: part of the device, where it has several.
            partition: the older name of `target`.
            operator: where the file is to be, if not on this machine.
            compression: how to compress the file (gzip, xz, bz2 or zstd).
        """
        target = one_target(target, partition)
        _check_compression(compression)
        with _offer(self, path, operator, "wb", compression) as handle:
            return self.call("dump", handle, target)


def one_target(target: str | None, partition: str | None) -> str | None:
    """The part of the device that was asked for, under its newer or its older name.

    Raises:
        ArgumentError: both were given, and differ.
    """
    if target is not None and partition is not None and target != partition:
        raise ArgumentError(f"target {target!r} and partition {partition!r} are two names for one thing; give one")
    return partition if target is None else target


def _check_compression(compression: str | None) -> None:
    if compression is not None and compression not in COMPRESSIONS:
        raise ArgumentError(f"unknown compression {compression!r}, use one of {', '.join(COMPRESSIONS)}")


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
        with _offer(self, path, operator, "rb") as handle:
            return self.write(handle)

    def read_file(self, operator: Operator, path: PathBuf) -> Any:
        """Read the medium into a file of an operator."""
        with _offer(self, path, operator, "wb") as handle:
            return self.read(handle)

    def write_local_file(self, filepath: PathBuf) -> Any:
        """Write a local file, or what an `http(s)://` URL has, to the medium."""
        with _offer(self, filepath, None, "rb") as handle:
            return self.write(handle)

    def read_local_file(self, filepath: PathBuf) -> Any:
        """Read the medium into a local file, which appears when it is complete."""
        with _offer(self, filepath, None, "wb") as handle:
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


class MediumLeftAtHost(JumpstarterException):
    """Writing or reading a medium failed; it was not given to the device."""


@dataclass(kw_only=True)
class StorageMuxFlasherClient(FlasherClient, StorageMuxClient):
    """A storage mux that is used as a flasher: the medium is written on the exporter and then given to the device."""

    def flash(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | Mapping[str, Operator] | None = None,
        compression: str | None = None,
        via_client: bool = False,
    ) -> None:
        """Write an image to the medium and connect it to the device.

        If writing fails, the medium stays with the exporter: the device doesn't boot from half an image.

        Raises:
            ArgumentError: a target, or several images, were given; a medium has no parts.
        """
        self._refuse_parts(target, partition)
        if isinstance(path, Mapping) or isinstance(operator, Mapping):
            raise ArgumentError("a storage mux has one medium: give a single image")
        _check_compression(compression)
        if operator is None and not _is_url(path):
            _check_local_source(path)
        self.host()
        with self._explained("write"), _offer(self, path, operator, "rb", compression, via_client) as handle:
            self.write(handle)
        self.dut()

    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | None = None,
        compression: str | None = None,
    ) -> None:
        """Read the medium into a file and connect it to the device, also when reading failed.

        Raises:
            ArgumentError: a target was given; a medium has no parts.
        """
        self._refuse_parts(target, partition)
        _check_compression(compression)
        self.host()
        try:
            with _offer(self, path, operator, "wb", compression) as handle:
                self.read(handle)
        finally:
            self.dut()

    @contextmanager
    def _explained(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except ArgumentError:
            raise
        except JumpstarterException as error:
            raise MediumLeftAtHost(
                f"could not {what} the medium. It stays connected to the exporter; flash again, or connect it to the "
                "device with 'dut'"
            ) from error

    def _refuse_parts(self, target: str | None, partition: str | None) -> None:
        if one_target(target, partition) is not None:
            raise ArgumentError("a storage mux has one medium without parts: leave 'target' and 'partition' out")

    def cli(self, base: click.Group | None = None) -> click.Group:
        """Return the `j` commands of a flasher and of a storage mux."""
        return StorageMuxClient.cli(self, base if base is not None else FlasherClient.cli(self))
