"""Storage on the exporter: files of any storage that the opendal library reaches, and the flasher interfaces."""

from __future__ import annotations

import hashlib
import os
from abc import ABCMeta, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter.driver import Driver, export

from .common import Capability, HashAlgo, Metadata, PresignedRequest, parse_size
from .files import FileTable, OpenFile
from .local import LocalReader, LocalStorage, PartialFile
from .paths import normalize
from .remote import OperatorStorage, make_operator
from .storage import LimitedWriter, Storage
from .transfer import CHUNK_SIZE, finish, receive_into, send_from

__all__ = [
    "FlasherInterface",
    "MockFlasher",
    "MockStorageMux",
    "MockStorageMuxFlasher",
    "Opendal",
    "StorageMuxFlasherInterface",
    "StorageMuxInterface",
]

MAX_SIZE = "64GiB"
DISCARD_TIMEOUT = 10.0
"""Seconds that a cancelled write may take to end before its file can be discarded."""

MAX_EXPIRE = 7 * 24 * 3600
"""Seconds; what S3 allows, and longer than any flashing takes."""


@dataclass(kw_only=True)
class Opendal(Driver):
    """A storage that clients read, write and list.

    Files appear under their name when they are complete: what a client that fails half way has sent is removed.
    Paths that lead out of the root of the storage are refused.

    Raises:
        ConfigurationError: there is no such scheme, or a setting is wrong.
    """

    driver_type: ClassVar[str] = "storage"

    scheme: str
    """Kind of storage: `fs`, `memory`, `http`, `s3`, ... as the opendal library names them."""
    kwargs: dict[str, Any]
    """Settings of the storage; `fs` needs `root`, which is created if missing."""
    remove_created_on_close: bool = False
    """Remove at the end of the session what was stored in it."""
    max_size: int | str = MAX_SIZE
    """Most bytes of one file, unpacked if it was sent compressed; a number or text such as `500MB`."""

    _storage: Storage = field(init=False, repr=False)
    _files: FileTable = field(init=False, repr=False, default_factory=FileTable)
    _created_paths: set[str] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        if not isinstance(self.kwargs, dict):
            raise ConfigurationError(f"'kwargs' of a storage must be a mapping, got {self.kwargs!r}")
        try:
            self.max_size = parse_size(self.max_size, "max_size")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self._storage = self._make_storage()

    def _make_storage(self) -> Storage:
        settings = {name: _as_text(value) for name, value in self.kwargs.items() if value is not None}
        if self.scheme != "fs":
            return OperatorStorage(self.scheme, make_operator(self.scheme, settings))
        if not settings.get("root"):
            raise ConfigurationError("storage scheme 'fs' needs 'root' in 'kwargs': the directory to store files in")
        try:
            return LocalStorage(settings["root"])
        except OSError as error:
            raise ConfigurationError(
                f"storage root {settings['root']!r} can't be used: {error.strerror}. "
                "Create the directory, or name one that the exporter may write to"
            ) from error

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_opendal.client.OpendalClient"

    def close(self) -> None:
        """Drop uploads that aren't finished, and what was stored in this session if the config says so."""
        try:
            for file in self._files.drain():
                with self._logged(f"closing {file.path!r}"):
                    file.close(publish=False)
            if self.remove_created_on_close:
                self._remove_created()
        finally:
            super().close()

    def _remove_created(self) -> None:
        # Directories go after the files in them.
        for path in sorted(self._created_paths, key=lambda path: (-path.rstrip("/").count("/"), path)):
            with self._logged(f"removing {path!r}"):
                if path:
                    self._storage.delete(path)
        self._created_paths.clear()

    @contextmanager
    def _logged(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (clean-up goes on with the rest; storages have errors of their own)
            self.logger.warning("%s failed: %s", what, error)

    # -- files -----------------------------------------------------------------------------------

    @export
    def open(self, path: str, mode: str) -> UUID:
        """Open a file for reading (`rb`) or writing (`wb`); returns its descriptor."""
        if mode not in ("rb", "wb"):
            raise ValueError(f"mode {mode!r} is not supported, use 'rb' or 'wb'")
        self._files.check_room()
        if mode == "rb":
            return self._files.add(OpenFile(path, reader=self._storage.open_reader(path)))
        limit = parse_size(self.max_size, "max_size")
        return self._files.add(OpenFile(path, writer=LimitedWriter(self._storage.open_writer(path), limit, path)))

    @export
    async def file_read(self, fd: UUID, dst: Any) -> int:
        """Send the file from its position to its end to a resource; returns the number of bytes."""
        with self._files.get(fd).exclusive() as file:
            async with self.resource(dst) as stream:
                sent = await send_from(file.reader.read, stream)
                await stream.send_eof()
                return sent

    @export
    async def file_write(self, fd: UUID, src: Any) -> int:
        """Append all bytes of a resource to the file; returns their number, unpacked if they came compressed.

        If that fails, or the client goes away, what was written so far is removed.
        """
        with self._files.get(fd).exclusive() as file:
            try:
                async with self.resource(src) as stream:
                    return await receive_into(stream, file.writer.write)
            except BaseException:
                if file.is_writable:
                    await finish(file.fail)
                raise

    @export
    def file_seek(self, fd: UUID, pos: int, whence: int = 0) -> int:
        """Move in a file that is read; returns the new position in bytes."""
        with self._files.get(fd).exclusive() as file:
            return file.reader.seek(int(pos), int(whence))

    @export
    def file_tell(self, fd: UUID) -> int:
        """The position in bytes of a file that is read."""
        return self._files.get(fd).reader.tell()

    @export
    def file_close(self, fd: UUID) -> None:
        """Close a file; a written one appears under its name now. Closing twice is fine."""
        file = self._files.find(fd)
        if file is None:
            return
        with file.exclusive():
            self._files.remove(fd)
            file.close(publish=True)
        if file.is_published:
            self._created_paths.add(normalize(file.path))

    @export
    def file_discard(self, fd: UUID) -> None:
        """Close a file without publishing what was written to it; waits for a write that is being cancelled."""
        if (file := self._files.find(fd)) is not None:
            with file.exclusive(DISCARD_TIMEOUT):
                self._files.remove(fd)
                file.close(publish=False)

    @export
    def file_closed(self, fd: UUID) -> bool:
        """Whether the file was closed."""
        return self._files.find(fd) is None

    @export
    def file_readable(self, fd: UUID) -> bool:
        """Whether the file is open for reading."""
        file = self._files.find(fd)
        return file is not None and not file.is_writable

    @export
    def file_seekable(self, fd: UUID) -> bool:
        """Whether the position in the file can be set: only where it is read."""
        return self.file_readable(fd)

    @export
    def file_writable(self, fd: UUID) -> bool:
        """Whether the file is open for writing."""
        file = self._files.find(fd)
        return file is not None and file.is_writable

    # -- paths -----------------------------------------------------------------------------------

    @export
    def stat(self, path: str) -> Metadata:
        """What is known of a path."""
        return self._storage.stat(path)

    @export
    def hash(self, path: str, algo: HashAlgo = "sha256") -> str:
        """The hash of a file, in hexadecimal digits."""
        if algo not in ("md5", "sha256"):
            raise ValueError(f"hash algorithm {algo!r} is not supported, use 'md5' or 'sha256'")
        digest = hashlib.new(algo, usedforsecurity=False)
        reader = self._storage.open_reader(path)
        try:
            while data := reader.read(CHUNK_SIZE):
                digest.update(data)
        finally:
            reader.close()
        return digest.hexdigest()

    @export
    def copy(self, source: str, target: str) -> None:
        """Copy a file."""
        self._storage.copy(source, target)
        self._created_paths.add(normalize(target))

    @export
    def rename(self, source: str, target: str) -> None:
        """Rename, or move, a file or directory."""
        self._storage.rename(source, target)
        self._forget(source, below=False)
        self._created_paths.add(normalize(target))

    @export
    def remove_all(self, path: str) -> None:
        """Remove a file, or a directory with all it holds. Missing is fine."""
        self._storage.remove_all(path)
        self._forget(path, below=True)

    @export
    def create_dir(self, path: str) -> None:
        """Create a directory and those above it. The path must end with a slash."""
        existed = self._storage.exists(path)
        self._storage.create_dir(path)
        if not existed:
            self._created_paths.add(normalize(path))

    @export
    def delete(self, path: str) -> None:
        """Remove a file or an empty directory. Missing is fine."""
        self._storage.delete(path)
        self._forget(path, below=False)

    def _forget(self, path: str, *, below: bool) -> None:
        # Changed in place, step by step: other calls add paths meanwhile.
        normal = normalize(path).rstrip("/")
        self._created_paths.difference_update({normal, f"{normal}/"})
        if below:
            prefix = f"{normal}/" if normal else ""
            self._created_paths.difference_update(
                [created for created in list(self._created_paths) if created.startswith(prefix)]
            )

    @export
    def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        return self._storage.exists(path)

    @export
    def list(self, path: str) -> Generator[str, None, None]:
        """The entries of one directory, itself included."""
        yield from self._storage.list(path, recursive=False)

    @export
    def scan(self, path: str) -> Generator[str, None, None]:
        """The entries of a directory and all below it, itself included."""
        yield from self._storage.list(path, recursive=True)

    @export
    def presign_stat(self, path: str, expire_second: int) -> PresignedRequest:
        """A request that tells about a file."""
        return self._presign("stat", path, expire_second)

    @export
    def presign_read(self, path: str, expire_second: int) -> PresignedRequest:
        """A request that downloads a file."""
        return self._presign("read", path, expire_second)

    @export
    def presign_write(self, path: str, expire_second: int) -> PresignedRequest:
        """A request that uploads a file."""
        return self._presign("write", path, expire_second)

    def _presign(self, operation: str, path: str, expire_second: int) -> PresignedRequest:
        seconds = int(expire_second)
        if not 0 < seconds <= MAX_EXPIRE:
            raise ValueError(f"expire_second must be 1 to {MAX_EXPIRE} seconds, got {expire_second}")
        return self._storage.presign(operation, path, seconds)

    @export(watch=True)
    def capability(self) -> Capability:
        """What the storage can do."""
        return self._storage.capability()

    # -- what was stored in this session ---------------------------------------------------------

    @export
    def get_created_resources(self) -> set[str]:
        """Paths of files and directories that were made in this session and still exist."""
        return set(self._created_paths)

    @export
    def register_path(self, path: str) -> None:
        """Count a path among those that were made in this session."""
        self._created_paths.add(normalize(path))

    def copy_exporter_file(self, source: Path, target: str) -> None:
        """Copy a file of the exporter's own file system into the storage; for other drivers, not for clients."""
        reader = LocalReader(os.fspath(source))
        try:
            writer = self._storage.open_writer(target)
            try:
                while data := reader.read(CHUNK_SIZE):
                    writer.write(data)
                writer.publish()
            finally:
                writer.discard()
        finally:
            reader.close()
        self._created_paths.add(normalize(target))

    def _normalize_path(self, path: str) -> str:
        return normalize(path)


def _as_text(value: Any) -> str:
    """A setting as the library takes it: booleans in lower case, everything as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class FlasherInterface(metaclass=ABCMeta):
    """A driver that writes an image to a device and reads it back."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_opendal.client.FlasherClient"

    @abstractmethod
    def flash(self, source: Any, target: str | None = None) -> Any:
        """Write the bytes of the resource `source` to the device, or to its part called `target`."""

    @abstractmethod
    def dump(self, target: Any, partition: str | None = None) -> Any:
        """Read the device, or its part called `partition`, into the resource `target`."""


class StorageMuxInterface(metaclass=ABCMeta):
    """A medium that is connected either to the exporter or to the device."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_opendal.client.StorageMuxClient"

    @abstractmethod
    def host(self) -> Any:
        """Connect the medium to the exporter."""

    @abstractmethod
    def dut(self) -> Any:
        """Connect the medium to the device."""

    @abstractmethod
    def off(self) -> Any:
        """Disconnect the medium."""

    @abstractmethod
    def write(self, src: Any) -> Any:
        """Write the bytes of the resource `src` to the medium."""

    @abstractmethod
    def read(self, dst: Any) -> Any:
        """Read the medium into the resource `dst`."""


class StorageMuxFlasherInterface(StorageMuxInterface):
    """A storage mux whose client also has `flash` and `dump`."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_opendal.client.StorageMuxFlasherClient"


async def store(stream: ObjectStream[bytes], path: Path, limit: int) -> int:
    """Write all of `stream` to a local file, which appears when it is complete; returns its size in bytes.

    Raises:
        SizeLimitExceeded: there were more than `limit` bytes.
        OSError: the disk is full, or failed.
    """
    partial = await to_thread.run_sync(PartialFile, os.fspath(path))
    writer = LimitedWriter(partial, limit, path.name)
    try:
        size = await receive_into(stream, writer.write)
        await to_thread.run_sync(writer.publish)
        return size
    finally:
        await finish(writer.discard)


async def fetch(path: Path, stream: ObjectStream[bytes]) -> int:
    """Send all of a local file to `stream`; returns its size in bytes.

    Raises:
        OSError: the file can't be read.
    """
    reader = await to_thread.run_sync(LocalReader, os.fspath(path))
    try:
        size = await send_from(reader.read, stream)
        await stream.send_eof()
        return size
    finally:
        reader.close()


@dataclass(kw_only=True)
class MockFlasher(FlasherInterface, Driver):
    """A flasher without a device: keeps what it is given in a temporary directory until the session ends."""

    driver_type: ClassVar[str] = "storage"

    max_size: int | str = MAX_SIZE
    """Most bytes of one image."""

    _directory: OwnedDirectory | None = field(init=False, repr=False, default=None)

    def _place(self, partition: str | None) -> Path:
        name = partition or "default"
        if name in (".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"partition {name!r} is no plain name")
        if self._directory is None:
            self._directory = OwnedDirectory("jumpstarter-flasher-")
        return self._directory.path / name

    def close(self) -> None:
        """Remove what was flashed."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()
        super().close()

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        """Keep an image, as the whole device or as one partition."""
        place = self._place(target)
        async with self.resource(source) as stream:
            await store(stream, place, parse_size(self.max_size, "max_size"))

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Give an image back."""
        place = self._place(partition)
        if not place.exists():
            raise FileNotFoundError(f"nothing was flashed to {place.name!r} yet")
        async with self.resource(target) as stream:
            await fetch(place, stream)


@dataclass(kw_only=True)
class MockStorageMux(StorageMuxInterface, Driver):
    """A storage mux without hardware: its medium is a temporary file, which the session's end removes."""

    driver_type: ClassVar[str] = "storage"

    max_size: int | str = MAX_SIZE
    """Bytes that fit on the medium."""

    _directory: OwnedDirectory | None = field(init=False, repr=False, default=None)

    @property
    def _medium(self) -> Path:
        if self._directory is None:
            self._directory = OwnedDirectory("jumpstarter-mux-")
            (self._directory.path / "medium").touch()
        return self._directory.path / "medium"

    def close(self) -> None:
        """Remove the medium."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()
        super().close()

    @export
    async def host(self) -> None:
        """Connect the medium to the exporter."""

    @export
    async def dut(self) -> None:
        """Connect the medium to the device."""

    @export
    async def off(self) -> None:
        """Disconnect the medium."""

    @export
    async def write(self, src: Any) -> None:
        """Write the medium."""
        async with self.resource(src) as stream:
            await store(stream, self._medium, parse_size(self.max_size, "max_size"))

    @export
    async def read(self, dst: Any) -> None:
        """Read the medium."""
        async with self.resource(dst) as stream:
            await fetch(self._medium, stream)


@dataclass(kw_only=True)
class MockStorageMuxFlasher(StorageMuxFlasherInterface, MockStorageMux):
    """A `MockStorageMux` whose client has `flash` and `dump`."""
