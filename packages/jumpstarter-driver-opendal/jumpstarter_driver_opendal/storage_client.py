"""Clients of a storage and of the files that are open in it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.common.exceptions import JumpstarterException

from .offer import check_local_source, is_url, offer

if TYPE_CHECKING:
    from opendal import Operator

    from .common import Capability, HashAlgo, Metadata, Mode, PathBuf, PresignedRequest

__all__ = ["OpendalClient", "OpendalFile"]


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
        with offer(self.client, path, operator, "rb", via_client=via_client) as handle:
            self._write(handle)

    def _write(self, handle: Any) -> Any:
        return self.client.call("file_write", self.fd, handle)

    def read_into_path(self, path: PathBuf, operator: Operator | None = None) -> None:
        """Read from the position to the end into a local file, or a file of an operator."""
        with offer(self.client, path, operator, "wb") as handle:
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
        if operator is None and not is_url(src):
            check_local_source(src)
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
        return OpendalFile(client=self, fd=UUID(self.call("open", os.fspath(path), mode)))

    def stat(self, path: PathBuf) -> Metadata:
        """What is known of a path."""
        from .common import Metadata

        return Metadata.model_validate(self.call("stat", os.fspath(path)))

    def hash(self, path: PathBuf, algo: HashAlgo = "sha256") -> str:
        """The hash of a file (`md5` or `sha256`), in hexadecimal digits."""
        return str(self.call("hash", os.fspath(path), algo))

    def copy(self, source: PathBuf, target: PathBuf) -> None:
        """Copy a file."""
        self.call("copy", os.fspath(source), os.fspath(target))

    def rename(self, source: PathBuf, target: PathBuf) -> None:
        """Rename, or move, a file or directory."""
        self.call("rename", os.fspath(source), os.fspath(target))

    def remove_all(self, path: PathBuf) -> None:
        """Remove a file, or a directory with all it holds. Missing is fine."""
        self.call("remove_all", os.fspath(path))

    def create_dir(self, path: PathBuf) -> None:
        """Create a directory and those above it. The path must end with a slash."""
        self.call("create_dir", os.fspath(path))

    def delete(self, path: PathBuf) -> None:
        """Remove a file or an empty directory. Missing is fine."""
        self.call("delete", os.fspath(path))

    def exists(self, path: PathBuf) -> bool:
        """Whether there is a file or directory."""
        return bool(self.call("exists", os.fspath(path)))

    def list(self, path: PathBuf) -> Generator[str, None, None]:
        """The entries of one directory, itself included."""
        yield from self.streamingcall("list", os.fspath(path))

    def scan(self, path: PathBuf) -> Generator[str, None, None]:
        """The entries of a directory and all below it, itself included."""
        yield from self.streamingcall("scan", os.fspath(path))

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

        return PresignedRequest.model_validate(self.call(method, os.fspath(path), expire_second))

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
