"""Images on their way to the exporter, while the board boots: sent by this client, or fetched by the exporter."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from io import BytesIO, FileIO
from typing import TYPE_CHECKING, Any, Protocol

from anyio import to_thread
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.common.exceptions import ArgumentError, JumpstarterException
from jumpstarter_driver_opendal.adapter import TransferError
from jumpstarter_driver_opendal.sources import BytesIOStream, SourceStream

from .arguments import Job, Options, is_url
from .errors import FlashNonRetryableError, categorize
from .progress import Display, Meter

if TYPE_CHECKING:
    from .client import BaseFlasherClient

__all__ = ["ExporterHost", "ImageHost", "Transfer", "Transfers", "store_quietly", "supports_images"]

READ = 1 << 20


class Transfers:
    """The images of a flash, on their way in the background; a context manager, which ends them."""

    def __init__(self, client: BaseFlasherClient, jobs: list[Job], options: Options, display: Display) -> None:
        self._client = client
        self._transfers = {id(job): Transfer(client, job, options, display) for job in jobs}
        self._futures: dict[int, Future[dict[str, Any]]] = {}

    def __enter__(self) -> Transfers:
        if self._transfers:
            _ = self._client.image_host  # found out here, as that takes a call
        for key, transfer in self._transfers.items():
            self._futures[key] = self._client.portal.start_task_soon(transfer.run)
        return self

    def __exit__(self, *_: object) -> None:
        from concurrent.futures import wait

        for future in self._futures.values():
            future.cancel()
        # Cancelled tasks take a moment to end; nothing may run on when the flash is over.
        wait(self._futures.values(), timeout=30)

    def check(self) -> None:
        """Raise what went wrong so far."""
        for future in self._futures.values():
            if future.done() and not future.cancelled() and (error := future.exception()) is not None:
                raise _failed(error)

    def is_done(self, job: Job) -> bool:
        """Tell whether an image is on the exporter."""
        return self._futures[id(job)].done()

    def wait(self, job: Job) -> dict[str, Any]:
        """Wait until an image is on the exporter; return what is known of it.

        Raises:
            FlashNonRetryableError: it did not get there.
        """
        from concurrent.futures import TimeoutError as StillRunning

        future = self._futures[id(job)]
        while True:
            self.check()
            try:
                return future.result(timeout=0.5)
            except StillRunning:
                if future.done():
                    raise
            except Exception as error:
                raise _failed(error) from error


def _failed(error: BaseException) -> FlashNonRetryableError:
    known = categorize(error)
    if isinstance(known, FlashNonRetryableError):
        return FlashNonRetryableError(f"step 'image': {known}")
    text = str(error) if isinstance(error, JumpstarterException) or str(error) else type(error).__name__
    return FlashNonRetryableError(f"step 'image': {text}")


class Reader(Protocol):
    """A file that is sent."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, pos: int, whence: int, /) -> int: ...
    def close(self) -> None: ...


class _Counted:
    """Reads a file for its transfer, and tells how far that is."""

    def __init__(self, reader: Reader, report: Callable[[int], object], done: int) -> None:
        self._reader, self._report, self._done = reader, report, done

    def read(self, size: int) -> bytes:
        data = bytes(self._reader.read(size))
        self._done += len(data)
        self._report(self._done)
        return data


class _Shown(SourceStream):
    """A stream whose progress is shown here."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        from jumpstarter.streams.progress import ProgressAttribute

        return {**super().extra_attributes, ProgressAttribute.shown: lambda: True}


class Transfer:
    """One image on its way."""

    def __init__(self, client: BaseFlasherClient, job: Job, options: Options, display: Display) -> None:
        self._client, self._job, self._options, self._display = client, job, options, display

    async def run(self) -> dict[str, Any]:
        """Have the image on the exporter; return what the exporter knows of it.

        Raises:
            JumpstarterException, OSError: it could not be sent, fetched or used.
        """
        job = self._job
        if job.operator is None and is_url(job.path):
            return await self._fetch(str(job.path), self._options.headers)
        if job.operator is None:
            reader, size, name = await to_thread.run_sync(_open_local, os.fspath(job.path))
        else:
            if (signed := await to_thread.run_sync(_presigned, job.operator, os.fspath(job.path))) is not None:
                return await self._fetch(*signed)
            reader, size, name = await to_thread.run_sync(_open_operator, job.operator, os.fspath(job.path))
        try:
            return await self._send(reader, size, name)
        finally:
            await to_thread.run_sync(reader.close)

    # -- fetched by the exporter -----------------------------------------------------------------

    async def _fetch(self, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
        options = self._options
        request = {
            "url": url,
            "sha256": self._job.sha256,
            "headers": dict(headers),
            "insecure_tls": options.insecure_tls,
            "cacert": options.cacert,
            "plain_http": options.plain_http,
            "username": options.credentials.username if options.credentials else None,
            "password": options.credentials.plain_password if options.credentials else None,
        }
        meter: Meter | None = None
        async with self._block_map() as handle:
            async for item in self._client.image_host.fetch(request, handle):
                if item.get("image") is not None:
                    if meter is not None:
                        meter.update(int(item["image"]["source_size"]))
                        meter.finish()
                    return self._ready(item["image"], fetched=meter is not None)
                meter = meter or self._display.meter(f"fetching {self._job.shown}")
                meter.update(int(item["done"]), None if item["total"] is None else int(item["total"]))
        raise TransferError(f"the exporter ended fetching {self._job.shown} without a result")

    # -- sent by this client ---------------------------------------------------------------------

    async def _send(self, reader: Reader, size: int, name: str) -> dict[str, Any]:
        job, host = self._job, self._client.image_host
        known = job.sha256 or self._client.known_hashes.get(name)
        bmap_sha256 = hashlib.sha256(job.block_map).hexdigest() if job.block_map is not None else None
        request = {"size": size, "name": name, "sha256": known, "bmap_sha256": bmap_sha256}
        found = await host.find(request)
        if found.get("image") is None and found["hash"] and known is None:
            # One of this size is there; reading the file costs less than sending it.
            meter = self._display.meter(f"checking {job.shown}", size)
            known = await to_thread.run_sync(_hash, reader, meter.update, size)
            meter.finish()
            found = await host.find({**request, "sha256": known})
        if found.get("image") is not None:
            self._client.known_hashes[name] = found["image"]["sha256"]
            return self._ready(found["image"], fetched=False)
        offset = int(found["offset"])
        if offset and not await to_thread.run_sync(_begins_with, reader, offset, str(found["offset_sha256"]), size):
            offset = 0
        if offset:
            self._display.step(f"{job.shown}: going on with a transfer that broke at {offset} of {size} bytes")
        await to_thread.run_sync(reader.seek, offset, os.SEEK_SET)
        meter = self._display.meter(f"sending {job.shown}", size)
        stream = _Shown(_Counted(reader, meter.update, offset), size - offset)
        async with self._block_map() as handle:
            image = await host.receive(stream, {"name": name, "offset": offset, "sha256": job.sha256}, handle)
        meter.finish()
        if int(image["source_size"]) != size:
            raise TransferError(
                f"{job.shown} changed while it was sent: it had {size} bytes, {image['source_size']} came"
            )
        self._client.known_hashes[name] = image["sha256"]
        return self._ready(image, fetched=True)

    @asynccontextmanager
    async def _block_map(self) -> AsyncGenerator[Any, None]:
        if self._job.block_map is None:
            yield None
            return
        async with self._client.image_host.offering(_Quiet(BytesIO(self._job.block_map))) as handle:
            yield handle

    def _ready(self, image: dict[str, Any], fetched: bool) -> dict[str, Any]:
        if not fetched:
            self._display.step(f"{self._job.shown} is in the exporter's cache")
        return image


def _open_local(path: str) -> tuple[Reader, int, str]:
    """Open a local file; return it, its size, and what tells it and its version from others."""
    try:
        file = FileIO(path, "rb")
    except OSError as error:
        raise ArgumentError(f"can't read the image {path!r}: {error.strerror or error}. Check the path") from None
    status = os.fstat(file.fileno())
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    name = f"{socket.gethostname()}:{os.path.realpath(path)} of {size} bytes from {status.st_mtime_ns}"
    return file, size, name


def _open_operator(operator: Any, path: str) -> tuple[Reader, int, str]:
    if hasattr(operator, "to_operator"):
        operator = operator.to_operator()
    try:
        status = operator.stat(path)
        file = operator.open(path, "rb")
    except Exception as error:  # noqa: BLE001 (the library's errors have no common base)
        raise ArgumentError(f"can't read the image {path!r} of the operator: {error}") from None
    name = f"{operator!r} {path} of {status.content_length} bytes, {getattr(status, 'last_modified', '')}"
    return file, int(status.content_length), name


def _presigned(operator: Any, path: str) -> tuple[str, dict[str, str]] | None:
    """Return URL and headers with which the exporter can fetch a file itself, if the storage has such."""
    if hasattr(operator, "to_operator"):
        operator = operator.to_operator()
    if not operator.capability().presign_read:
        return None
    from jumpstarter_driver_opendal.adapter import PRESIGN_SECONDS
    from jumpstarter_driver_opendal.presign import presign

    signed = presign(operator, "read", path, PRESIGN_SECONDS)
    return signed.url, dict(signed.headers)


def _hash(reader: Reader, report: Callable[[int], object], size: int) -> str:
    reader.seek(0, os.SEEK_SET)
    digest, done = hashlib.sha256(), 0
    while data := reader.read(READ):
        digest.update(data)
        done += len(data)
        report(done)
    return digest.hexdigest()


def _begins_with(reader: Reader, length: int, sha256: str, size: int) -> bool:
    """Tell whether the first `length` bytes have a SHA-256."""
    if length > size:
        return False
    reader.seek(0, os.SEEK_SET)
    digest, left = hashlib.sha256(), length
    while left and (data := reader.read(min(READ, left))):
        digest.update(data)
        left -= len(data)
    return not left and digest.hexdigest() == sha256


class ImageHost(Protocol):
    """Whoever takes images and lets the board get them."""

    async def find(self, request: dict[str, Any]) -> dict[str, Any]: ...
    async def receive(self, stream: SourceStream, request: dict[str, Any], block_map: Any) -> dict[str, Any]: ...
    def fetch(self, request: dict[str, Any], block_map: Any) -> AsyncGenerator[dict[str, Any], None]: ...
    def offering(self, stream: Any) -> Any: ...
    def offer(self, key: str) -> dict[str, Any]: ...
    def withdraw(self, path: str) -> None: ...


class ExporterHost:
    """The exporter, as the host of images."""

    def __init__(self, client: BaseFlasherClient) -> None:
        self._client = client

    async def find(self, request: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self._client.call_async("image_find", request)
        return found

    async def receive(self, stream: SourceStream, request: dict[str, Any], block_map: Any) -> dict[str, Any]:
        try:
            async with self._client.resource_async(stream) as handle:
                image: dict[str, Any] = await self._client.call_async("image_receive", handle, request, block_map)
        except Exception:
            if stream.failure is not None:
                raise TransferError(f"reading the image failed after {stream.sent} bytes") from stream.failure
            raise
        return image

    async def fetch(self, request: dict[str, Any], block_map: Any) -> AsyncGenerator[dict[str, Any], None]:
        async for item in self._client.streamingcall_async("image_fetch", request, block_map):
            yield item

    def offering(self, stream: Any) -> Any:
        return self._client.resource_async(stream)

    def offer(self, key: str) -> dict[str, Any]:
        """Let the board get an image; blocking."""
        offered: dict[str, Any] = self._client.call("image_offer", key)
        return offered

    def withdraw(self, path: str) -> None:
        """Take an image back; blocking."""
        self._client.call("image_withdraw", path)


class _Quiet(BytesIOStream):
    """Bytes in memory, too few to show how their transfer goes on."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        from jumpstarter.streams.progress import ProgressAttribute

        return {ProgressAttribute.shown: lambda: True}


def store_quietly(storage: Any, path: str, data: bytes) -> None:
    """Store bytes in a storage of the exporter without a bar; blocking."""
    with storage.open(path, "wb") as file:
        offered = storage.resource_async(_Quiet(BytesIO(data)))
        with storage.portal.wrap_async_context_manager(offered) as handle:
            storage.call("file_write", file.fd, handle)


def supports_images(client: BaseFlasherClient) -> bool:
    """Tell whether the exporter takes images itself; those of other releases don't."""
    try:
        client.call("image_find", {"size": 0, "name": ""})
    except DriverMethodNotImplemented:
        return False
    return True
