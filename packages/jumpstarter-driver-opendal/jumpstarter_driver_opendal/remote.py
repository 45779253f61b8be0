"""Storage that the opendal library reaches: S3, WebDAV, HTTP, memory and whatever else it was built with.

Only blocking operators are used, in worker threads. The library's async ones leave threads behind that crash a
process that ends soon after.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from jumpstarter.common.exceptions import ConfigurationError

from .common import Capability, EntryMode, Metadata, PresignedRequest
from .paths import normalize
from .presign import presign
from .storage import Storage, Writer

if TYPE_CHECKING:
    from opendal import Operator

__all__ = ["OperatorStorage", "make_operator", "readable_errors"]

PART_SIZE = 8 << 20
"""Bytes that are uploaded at a time where a storage takes files in parts."""

ONE_PIECE_LIMIT = 1 << 30
"""Largest file in bytes for a storage that doesn't take files in parts."""

_CODES: dict[str, type[OSError]] = {
    "NotFound": FileNotFoundError,
    "AlreadyExists": FileExistsError,
    "IsADirectory": IsADirectoryError,
    "NotADirectory": NotADirectoryError,
    "PermissionDenied": PermissionError,
}
_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
}


@cache
def _library_errors() -> tuple[type[Exception], ...]:
    """The library's exceptions, which have no base class of their own."""
    from opendal import exceptions

    return tuple(each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception))


def reason_of(error: Exception) -> str:
    """What an error of the library says, in one line: without its context and without the query of URLs, which may
    hold credentials."""
    lines = str(error).splitlines() or [""]
    reason = lines[0].partition("=>")[2].strip() or lines[0].strip() or type(error).__name__
    for number, line in enumerate(lines):
        if line.startswith("Source:") and number + 1 < len(lines):
            source = lines[number + 1].strip()
            reason = f"{reason}: {source}" if source and source not in reason else reason
    if reason.startswith("<"):  # a service that answers with a page
        status = re.search(r"status: (\d{3})", str(error))
        reason = f"the service answered with status {status[1]}" if status else "the service refused"
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?...", reason)[:500]


@contextmanager
def readable_errors(scheme: str, path: str) -> Iterator[None]:
    """Turn errors of the library into Python's own, with one readable line."""
    try:
        yield
    except _library_errors() as error:
        raise _readable(type(error).__name__, error, scheme, path) from error
    except OSError as error:
        # Open files of the library raise OSError, with the text of the library's own exception.
        if match := re.match(r"(\w+) \((?:permanent|temporary|persistent)\)", str(error)):
            raise _readable(match[1], error, scheme, path) from error
        raise


def _readable(name: str, error: Exception, scheme: str, path: str) -> Exception:
    reason = reason_of(error)
    if name in _CODES:
        kind = _CODES[name]
        return kind(_ERRNO[kind], f"{os.strerror(_ERRNO[kind])} in {scheme} storage ({reason})", path)
    text = f"{scheme} storage: {path!r}: {reason}"
    if name == "Unsupported":
        return NotImplementedError(text)
    if name == "IsSameFile":
        return ValueError(f"source and target are the same path: {path!r}")
    return OSError(errno.EIO, text)


def make_operator(scheme: str, kwargs: dict[str, str]) -> Operator:
    """The library's operator for a scheme.

    Raises:
        ConfigurationError: the library knows no such scheme, or the settings are wrong.
    """
    from opendal import Operator, exceptions

    try:
        return Operator(scheme, **kwargs)
    except exceptions.Unsupported as error:
        raise ConfigurationError(
            f"storage scheme {scheme!r} is not available: the installed opendal library has no such service. "
            "Check the spelling of 'scheme' (fs, memory, http, s3, gcs, azblob, webdav, ...)"
        ) from error
    except _library_errors() as error:
        raise ConfigurationError(
            f"storage scheme {scheme!r}: {reason_of(error)}. Check 'kwargs' in the exporter config"
        ) from error


class RemoteReader:
    """A remote file open for reading."""

    def __init__(self, storage: OperatorStorage, path: str) -> None:
        self._storage = storage
        self._path = path
        with storage.errors(path):
            # Opening doesn't ask for the file, so this does.
            metadata = storage.operator.stat(path)
            if metadata.mode.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)
            self._file = storage.operator.open(path, "rb")

    def read(self, size: int) -> bytes:
        with self._storage.errors(self._path):
            return bytes(self._file.read(size))

    def seek(self, pos: int, whence: int) -> int:
        with self._storage.errors(self._path):
            return int(self._file.seek(pos, whence))

    def tell(self) -> int:
        with self._storage.errors(self._path):
            return int(self._file.tell())

    def close(self) -> None:
        self._file.close()


class RemoteWriter:
    """A remote file that is uploaded in parts. These storages show a file when its upload is finished, not before."""

    def __init__(self, storage: OperatorStorage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._file: Any
        chunk = max(PART_SIZE, storage.operator.capability().write_multi_min_size or 0)
        with storage.errors(path):
            self._file = storage.operator.open(path, "wb", chunk=chunk)

    def write(self, data: bytes) -> None:
        with self._storage.errors(self._path):
            self._file.write(data)

    def publish(self) -> None:
        with self._storage.errors(self._path):
            self._file.close()
        self._file = None

    def discard(self) -> None:
        # Closing would finish the upload; dropping the writer leaves it unfinished, and so invisible.
        self._file = None


class OnePieceWriter:
    """A remote file for a storage that takes files in one piece only: kept in a temporary file until it is complete."""

    def __init__(self, storage: OperatorStorage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._written = 0
        if not storage.operator.capability().write:
            raise NotImplementedError(f"{storage.scheme} storage can't be written")
        self._file = TemporaryFile()  # noqa: SIM115 (closed by discard)

    def write(self, data: bytes) -> None:
        self._written += len(data)
        if self._written > ONE_PIECE_LIMIT:
            raise ValueError(
                f"{self._path!r} is too large: {self._storage.scheme} storage takes files in one piece, which has to "
                f"fit into memory, of {ONE_PIECE_LIMIT >> 20} MiB at most"
            )
        self._file.write(data)

    def publish(self) -> None:
        self._file.seek(0)
        with self._storage.errors(self._path):
            self._storage.operator.write(self._path, self._file.read())
        self.discard()

    def discard(self) -> None:
        self._file.close()


class OperatorStorage(Storage):
    """A storage behind an operator of the opendal library."""

    def __init__(self, scheme: str, operator: Operator) -> None:
        self.scheme = scheme
        self.operator = operator

    def errors(self, path: str) -> Any:
        """Context manager that makes the library's errors readable."""
        return readable_errors(self.scheme, path)

    def open_reader(self, path: str) -> RemoteReader:
        return RemoteReader(self, normalize(path))

    def open_writer(self, path: str) -> Writer:
        normal = normalize(path)
        if not normal or normal.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, "can't write to a directory, name a file", path)
        in_parts = self.operator.capability().write_can_multi
        return RemoteWriter(self, normal) if in_parts else OnePieceWriter(self, normal)

    def stat(self, path: str) -> Metadata:
        with self.errors(path):
            found = self.operator.stat(normalize(path) or "/")
        return Metadata(
            content_disposition=found.content_disposition,
            content_length=found.content_length,
            content_md5=found.content_md5,
            content_type=found.content_type,
            etag=found.etag,
            last_modified=getattr(found, "last_modified", None),
            mode=EntryMode(is_file=found.mode.is_file(), is_dir=found.mode.is_dir()),
        )

    def copy(self, source: str, target: str) -> None:
        with self.errors(source):
            self.operator.copy(normalize(source), normalize(target))

    def rename(self, source: str, target: str) -> None:
        with self.errors(source):
            self.operator.rename(normalize(source), normalize(target))

    def remove_all(self, path: str) -> None:
        normal = normalize(path)
        with self.errors(path):
            # The root itself stays, as other storages can't be without one.
            found = [normal] if normal else [entry.path for entry in self.operator.list("/")]
            for each in found:
                if each.strip("/"):
                    self.operator.remove_all(each)

    def create_dir(self, path: str) -> None:
        if not path.endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, "the path of a directory must end with a slash", path)
        with self.errors(path):
            self.operator.create_dir(normalize(path) or "/")

    def delete(self, path: str) -> None:
        with self.errors(path):
            self.operator.delete(normalize(path))

    def list(self, path: str, *, recursive: bool) -> Iterator[str]:
        with self.errors(path):
            list_entries = self.operator.scan if recursive else self.operator.list
            for entry in list_entries(normalize(path) or "/"):
                yield entry.path

    def presign(self, operation: str, path: str, expire_second: int) -> PresignedRequest:
        with self.errors(path):
            signed = presign(self.operator, operation, normalize(path), expire_second)
        return PresignedRequest(url=signed.url, method=signed.method, headers=dict(signed.headers))

    def capability(self) -> Capability:
        known = self.operator.capability()
        # Worker threads make every operator of the library a blocking one.
        return Capability.from_mapping(
            {name: getattr(known, name) for name in dir(known) if not name.startswith("_")} | {"blocking": True}
        )
