"""Offering files to driver calls: by a stream from the client, or by a presigned request for the exporter."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

from anyio import BrokenResourceError, EndOfStream, to_thread
from anyio.abc import ObjectStream
from jumpstarter.client.adapters import blocking
from jumpstarter.common.exceptions import JumpstarterException

from .sources import PipeStream, SinkStream, SourceStream
from .transfer import finish

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient

    from .common import Mode, PathBuf
    from .storage import Writer

__all__ = ["AsyncFileStream", "OpendalAdapter", "TransferError", "local_file", "url_through_client"]

PRESIGN_SECONDS = 3600
"""How long a presigned request can be started; the exporter may have to wait for a device before it does."""


URL_TIMEOUT = 60.0
"""Seconds that a web server may take to go on with a download."""


class TransferError(JumpstarterException):
    """A file on the client's side could not be read or written to its end; the other side's copy is incomplete."""


@asynccontextmanager
async def _offer_source(
    client: DriverClient, stream: SourceStream, shown: str, compression: str | None
) -> AsyncGenerator[Any, None]:
    error: Exception | None = None
    try:
        async with client.resource_async(stream, content_encoding=compression) as handle:
            yield handle
    except Exception as raised:  # noqa: BLE001 (raised below, unless the cause of it is known)
        error = raised
    if stream.failure is not None:
        raise TransferError(f"reading {shown} failed after {stream.sent} bytes") from stream.failure
    if error is not None:
        raise error


@asynccontextmanager
async def _offer_sink(
    client: DriverClient, writer: Writer, shown: str, compression: str | None
) -> AsyncGenerator[Any, None]:
    stream = SinkStream(writer)
    error: Exception | None = None
    try:
        try:
            async with client.resource_async(stream, content_encoding=compression) as handle:
                yield handle
        except Exception as raised:  # noqa: BLE001 (raised below, unless the cause of it is known)
            error = raised
        if stream.failure is not None:
            raise TransferError(f"writing {shown} failed") from stream.failure
        if error is not None:
            raise error
        if not stream.complete:
            if not stream.started:
                client.logger.warning("the driver sent nothing for %s, so it is not written", shown)
                return
            raise TransferError(f"writing {shown} failed: the connection to the exporter ended before all was there")
        await to_thread.run_sync(writer.publish)
    finally:
        await finish(writer.discard)


@asynccontextmanager
async def url_through_client_async(
    *, client: DriverClient, url: str, compression: str | None = None
) -> AsyncGenerator[Any, None]:
    """Offer what an `http(s)://` URL has, fetched by this client; for URLs that the exporter can't reach.

    Raises:
        TransferError: the URL can't be fetched to its end. Its query, which may hold secrets, is not told.
    """
    from urllib.request import Request, urlopen

    shown = url.partition("?")[0]
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "jumpstarter"})
    try:
        response = await to_thread.run_sync(lambda: urlopen(request, timeout=URL_TIMEOUT))
    except (OSError, ValueError) as error:
        raise TransferError(f"can't fetch {shown}: {error}") from None
    try:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        stream = SourceStream(_WholeBody(response, total), total)
        async with _offer_source(client, stream, shown, compression) as handle:
            yield handle
    finally:
        response.close()


url_through_client = blocking(url_through_client_async)


class _WholeBody:
    """The body of a response; one that ends early is an error, which `http.client` keeps to itself in some cases."""

    def __init__(self, response: Any, total: int | None) -> None:
        self._response = response
        self._missing = total

    def read(self, size: int) -> bytes:
        data: bytes = self._response.read(size)
        if self._missing is not None:
            self._missing -= len(data)
            if not data and self._missing > 0:
                raise OSError(f"the server closed the connection {self._missing} bytes before the end")
        return data


@asynccontextmanager
async def local_file_async(
    *, client: DriverClient, path: PathBuf, mode: Mode = "rb", compression: str | None = None
) -> AsyncGenerator[Any, None]:
    """Offer a local file, without the opendal library; see `OpendalAdapter`.

    A file that is written appears when it is complete.

    Raises:
        OSError: the file can't be opened.
        TransferError: it can't be read or written to its end.
    """
    shown = repr(os.fspath(path))
    if mode == "rb":
        file = await to_thread.run_sync(_open_source, path)
        try:
            async with _offer_source(client, _source_stream(file), shown, compression) as handle:
                yield handle
        finally:
            file.close()
        return
    if mode != "wb":
        raise ValueError(f"mode {mode!r} is not supported, use 'rb' or 'wb'")
    writer = await to_thread.run_sync(_open_sink, path)
    async with _offer_sink(client, writer, shown, compression) as handle:
        yield handle


def _open_source(path: PathBuf) -> FileIO:
    return FileIO(os.fspath(path), "rb")


def _source_stream(file: FileIO) -> SourceStream:
    status = os.fstat(file.fileno())
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or file.isatty():
        return PipeStream(file.fileno())
    return SourceStream(file, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _open_sink(path: PathBuf) -> Writer:
    from .local import PartialFile

    located = os.path.realpath(path)
    if not os.path.isfile(path) and not os.path.isdir(path) and os.path.exists(path):
        return _Device(os.fspath(path))
    os.makedirs(os.path.dirname(located), exist_ok=True)
    return PartialFile(located, os.fspath(path))


local_file = blocking(local_file_async)


class _Device:
    """A device or pipe on the client's side, such as `/dev/stdout`, which can't be written beside its place."""

    def __init__(self, path: str) -> None:
        self._file = FileIO(path, "wb")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def publish(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()


class _OperatorReader:
    """A file of an operator, opened for reading in blocking mode."""

    def __init__(self, operator: Any, path: str) -> None:
        self.total = operator.stat(path).content_length
        self._file = operator.open(path, "rb")

    def read(self, size: int) -> bytes:
        return bytes(self._file.read(size))

    def seek(self, pos: int, whence: int) -> int:
        return int(self._file.seek(pos, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()


class _OperatorWriter:
    """A file of an operator that is being written in blocking mode."""

    def __init__(self, operator: Any, path: str) -> None:
        self._file = operator.open(path, "wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def publish(self) -> None:
        self._file.close()

    def discard(self) -> None:
        # Closing would finish the upload; without its writer it stays unfinished.
        self._file = None


@blocking
@asynccontextmanager
async def OpendalAdapter(
    *,
    client: DriverClient,
    operator: Any,
    path: str,
    mode: Mode = "rb",
    compression: str | None = None,
    original_url: str | None = None,
) -> AsyncGenerator[Any, None]:
    """Offer a file of an opendal operator to a driver call; yields the handle to pass as its argument.

    A file that is read travels from the storage to the exporter directly, by a presigned request, where the storage
    can do that; otherwise, and always for a file that is written, this client carries it.

    Args:
        client: the driver client that makes the call.
        operator: an `opendal.Operator` or `AsyncOperator`; None stands for the local file system.
        path: the path of the file in the storage.
        mode: `rb` to give the file to the driver, `wb` to write what the driver sends.
        compression: how the file is compressed (gzip, xz, bz2 or zstd); the exporter gets, and sends, the plain bytes.
        original_url: the URL of the file, handed to the exporter untouched; for reading only.

    Raises:
        ValueError: `original_url` together with `wb` or `compression`, or an unknown mode.
        OSError: the local file can't be opened, or (`TransferError`) not read or written to its end.
    """
    if mode not in ("rb", "wb"):
        raise ValueError(f"mode {mode!r} is not supported, use 'rb' or 'wb'")
    if original_url is not None:
        if mode != "rb":
            raise ValueError("original_url is for reading; a file can't be written to a URL this way")
        if compression is not None:
            raise ValueError("original_url can't be combined with compression: the exporter gets the bytes of the URL")
        yield _request("GET", original_url, {})
        return
    if operator is None:
        async with local_file_async(client=client, path=path, mode=mode, compression=compression) as handle:
            yield handle
        return
    path = os.fspath(path)
    if hasattr(operator, "to_operator"):
        operator = operator.to_operator()
    if mode == "wb":
        writer = await to_thread.run_sync(_OperatorWriter, operator, path)
        async with _offer_sink(client, writer, repr(path), compression) as handle:
            yield handle
        return
    if compression is None and operator.capability().presign_read:
        from .presign import presign

        signed = await to_thread.run_sync(presign, operator, "read", path, PRESIGN_SECONDS)
        yield _request(signed.method, signed.url, dict(signed.headers))
        return
    reader = await to_thread.run_sync(_OperatorReader, operator, path)
    try:
        async with _offer_source(client, SourceStream(reader, reader.total), repr(path), compression) as handle:
            yield handle
    finally:
        reader.close()


def _request(method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
    return {"kind": "presigned_request", "headers": headers, "url": url, "method": method}


class AsyncFileStream(ObjectStream[bytes]):
    """A stream over an `opendal.AsyncFile`, for programs that work with those."""

    def __init__(self, *, file: Any, metadata: Any = None) -> None:
        self.file = file
        self.metadata = metadata

    async def receive(self) -> bytes:
        """The next chunk of the file."""
        try:
            chunk = bytes(await self.file.read(1 << 20))
        except Exception as error:
            raise BrokenResourceError from error
        if not chunk:
            raise EndOfStream
        return chunk

    async def send(self, item: bytes) -> None:
        """Append to the file."""
        try:
            await self.file.write(item)
        except Exception as error:
            raise BrokenResourceError from error

    async def send_eof(self) -> None:
        """Nothing more will be written."""

    async def aclose(self) -> None:
        """Close the file."""
        await self.file.close()
