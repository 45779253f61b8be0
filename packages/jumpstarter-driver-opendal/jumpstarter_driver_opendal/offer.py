"""What clients can offer to driver calls: local files, URLs, and files of an OpenDAL operator."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jumpstarter.client import DriverClient
from jumpstarter.common.exceptions import ArgumentError

if TYPE_CHECKING:
    from opendal import Operator

    from .common import Mode, PathBuf

__all__ = [
    "COMPRESSIONS",
    "check_local_source",
    "clean_filename",
    "is_url",
    "offer",
    "operator_for_path",
    "path_with_query",
]

COMPRESSIONS = ("gzip", "xz", "bz2", "zstd")
"""Compressions of local files that drivers undo and apply."""


def is_url(path: PathBuf) -> bool:
    """Whether a path is an `http(s)://` URL."""
    return isinstance(path, str) and path.startswith(("http://", "https://"))


def operator_for_path(path: PathBuf) -> tuple[Path, Operator, str]:
    """The path, operator and scheme that stand for a local path or an `http(s)://` URL.

    The query of a URL is lost, as operators have none; give the URL itself to `flash` and the like.
    """
    from opendal import Operator

    if is_url(path):
        parsed = urlsplit(str(path))
        return Path(parsed.path), Operator("http", endpoint=f"{parsed.scheme}://{parsed.netloc}"), "http"
    return Path(path).resolve(), Operator("fs", root="/"), "fs"


def path_with_query(parsed: Any) -> str:
    """Path and query of a parsed URL."""
    return f"{parsed.path}?{parsed.query}" if parsed.query else parsed.path


def clean_filename(path: PathBuf) -> str:
    """The name of the file that a path or URL leads to, without directories and query."""
    text = os.fspath(path)
    if is_url(path):
        text = urlsplit(text).path
    return PurePosixPath(text.partition("?")[0]).name


def offer(
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
    if not is_url(path):
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


def check_local_source(path: PathBuf) -> None:
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
