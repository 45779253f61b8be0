"""The exporter's side of images: it takes them from clients, web servers and registries, and offers them to boards."""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import EndOfStream, WouldBlock, to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import ArgumentError
from jumpstarter.common.oci import OciCredentials, resolve_oci_credentials
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter_driver_opendal.images.block_map import MAX_SIZE as MAX_BLOCK_MAP
from jumpstarter_driver_opendal.images.cache import Cache
from jumpstarter_driver_opendal.images.download import Wanted, fetch_url
from jumpstarter_driver_opendal.images.ingest import (
    CachedImage,
    Ingest,
    close_ingest,
    find_image,
    ingest_stream,
    known_sizes,
    partial_state,
)
from jumpstarter_driver_opendal.images.registry import Reference, Registry, fetch_oci_image
from pydantic import BaseModel, Field, SecretStr

from .ops import SUFFIX, list_of

__all__ = ["FetchRequest", "FindRequest", "ImageService", "ReceiveRequest"]

REPORT_INTERVAL: Final = 0.5
"""Seconds between two reports of a transfer."""

OFFERED: Final = "jumpstarter-image-"
"""How the directories of offered images begin."""

MAX_OPEN: Final = 64
"""Images that are offered to boards at a time."""


class FindRequest(BaseModel):
    """What a client wants to know about an image that it has."""

    size: int = Field(ge=0)
    """Bytes of its file."""
    name: str
    """Tells it from others, and its versions apart, such as path, size and time of the last change."""
    sha256: str | None = None
    bmap_sha256: str | None = None


class ReceiveRequest(BaseModel):
    """An image that a client is about to send."""

    name: str
    offset: int = Field(default=0, ge=0)
    """Bytes that the exporter has already, which are not sent."""
    sha256: str | None = None
    """What the whole file must have."""


class FetchRequest(BaseModel):
    """An image that the exporter is to fetch."""

    url: str
    """`http://`, `https://` or `oci://`."""
    sha256: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    insecure_tls: bool = False
    cacert: str | None = None
    """Certificates of authorities to trust, as PEM."""
    plain_http: bool = False
    """Whether the registry speaks HTTP without TLS."""
    username: str | None = None
    password: SecretStr | None = None


class ImageService:
    """Images of one flasher.

    Args:
        cache: keeps them.
        place: returns the directory that boards get files from.
    """

    def __init__(self, cache: Cache, place: Callable[[], Path]) -> None:
        self._cache = cache
        self._place = place
        self._images: dict[str, CachedImage] = {}
        """Those that were taken in this session, by key."""
        self._offered: dict[str, OwnedDirectory] = {}

    # -- taking images ---------------------------------------------------------------------------

    async def find(self, request: FindRequest) -> dict[str, Any]:
        """Tell what is known of an image: `image` if it is there; else `hash`, whether one of its size is there, and
        `offset` and `offset_sha256` of what a broken transfer has left."""
        if request.sha256 is not None:
            image = await to_thread.run_sync(find_image, self._cache, request.sha256.lower(), request.bmap_sha256)
            if image is not None:
                return {"image": self._keep(image)}
        sizes = await to_thread.run_sync(known_sizes, self._cache)
        offset, sha256 = await to_thread.run_sync(partial_state, self._cache, request.name)
        return {"image": None, "hash": request.size in sizes, "offset": offset, "offset_sha256": sha256}

    async def receive(
        self, request: ReceiveRequest, stream: ObjectStream[bytes], block_map: bytes | None
    ) -> dict[str, Any]:
        """Take an image from a client; return what is known of it.

        Raises:
            ImageError: it is damaged, or not the expected one.
            ConnectionAbortedError: the client went away; what came is kept.
        """

        def begin() -> Ingest:
            return Ingest(self._cache, request.name, block_map=block_map, sha256=request.sha256)

        ingest = await to_thread.run_sync(begin)
        try:
            if request.offset:
                kept = await to_thread.run_sync(ingest.resume)
                if kept != request.offset:
                    raise ArgumentError(
                        f"the transfer can't go on at byte {request.offset}: the exporter has {kept}. Try again"
                    )
            elif ingest.kept:
                await to_thread.run_sync(ingest.restart)
            await ingest_stream(ingest, stream)
            image = await to_thread.run_sync(ingest.finish)
        finally:
            await close_ingest(ingest)
        return self._keep(image)

    async def fetch(self, request: FetchRequest, block_map: bytes | None) -> AsyncGenerator[dict[str, Any], None]:
        """Fetch an image; yield `done` and `total` now and then, at last `image` with what is known of it.

        Raises:
            TransferFailed, TimeoutError, RegistryError: it can't be had.
            ImageError: it is damaged, or not the expected one.
        """
        reports_in, reports = anyio.create_memory_object_stream[tuple[int, int | None]](1)
        ended = anyio.Event()
        result: list[CachedImage] = []
        failure: list[Exception] = []

        def report(done: int, total: int | None) -> None:
            try:
                reports_in.send_nowait((done, total))
            except WouldBlock:
                pass  # the one that waits is new enough

        async def work() -> None:
            with reports_in:
                try:
                    result.append(await self._fetch(request, block_map, report))
                except Exception as error:  # noqa: BLE001 (raised below, outside of the task group)
                    failure.append(error)
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            with reports:
                while True:
                    try:
                        done, total = await reports.receive()
                    except EndOfStream:
                        break
                    yield {"done": done, "total": total}
                    with anyio.move_on_after(REPORT_INTERVAL):
                        await ended.wait()
        if failure:
            raise failure[0]
        yield {"image": self._keep(result[0])}

    async def _fetch(
        self, request: FetchRequest, block_map: bytes | None, report: Callable[[int, int | None], object]
    ) -> CachedImage:
        wanted = Wanted(sha256=request.sha256, block_map=block_map)
        tls = _tls(request)
        if request.url.startswith("oci://"):
            reference = Reference.parse(request.url, request.plain_http)
            password = request.password.get_secret_value() if request.password else None
            credentials: OciCredentials | None = None
            if request.username or password:
                credentials = await to_thread.run_sync(resolve_oci_credentials, request.url, request.username, password)
            return await fetch_oci_image(self._cache, Registry(reference, credentials, tls), wanted, report)
        return await fetch_url(self._cache, request.url, wanted, headers=request.headers, tls=tls, report=report)

    def _keep(self, image: CachedImage) -> dict[str, Any]:
        """Keep an image for the session; return what clients are told about it."""
        if (old := self._images.pop(image.key, None)) is not None:
            old.close()
        while len(self._images) >= MAX_OPEN:
            self._images.pop(next(iter(self._images))).close()
        self._images[image.key] = image
        return {**image.facts, "key": image.key, "data": image.plan.data, "covered": image.plan.covered}

    # -- offering images -------------------------------------------------------------------------

    def offer(self, key: str) -> dict[str, Any]:
        """Let boards get an image; return the `path` below the server's URL, the `size` of the disk and the `pieces`.
        Blocking.

        Raises:
            ArgumentError: no such image was taken in this session.
        """
        image = self._images.get(key)
        if image is None:
            raise ArgumentError(f"the image {key!r} was not taken in this session; send it again")
        place = self._place()
        place.mkdir(parents=True, exist_ok=True)
        # What a killed exporter has left would keep the bytes of images that the cache has dropped.
        owned = OwnedDirectory(OFFERED, place)
        path = f"{owned.path.name}/{secrets.token_hex(8)}"
        self._offered[path] = owned
        folder = place / path
        folder.mkdir()
        pieces = []
        for piece in image.plan.pieces:
            link_or_copy(image.file(piece), folder / piece.name)
            (folder / f"{piece.name}{SUFFIX}").write_text(list_of(piece))
            zeros = sum(extent.length for extent in piece.extents if extent.kind == "zeros")
            pieces.append({"name": piece.name, "size": piece.size, "sha256": piece.sha256, "zeros": zeros})
        return {"path": path, "size": image.plan.size, "pieces": pieces}

    def withdraw(self, path: str) -> None:
        """Take an offered image back. Missing is fine. Blocking."""
        if (owned := self._offered.pop(path, None)) is not None:
            owned.close()

    def close(self) -> None:
        """Take back all that was offered and release the images. Blocking."""
        with ExitStack() as stack:
            for image in self._images.values():
                stack.callback(image.close)
            self._images.clear()
            for path in list(self._offered):
                self.withdraw(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file at a second place, without copying its bytes where that can be."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _tls(request: FetchRequest) -> ssl.SSLContext | None:
    if not request.insecure_tls and request.cacert is None:
        return None
    try:
        context = ssl.create_default_context(cadata=request.cacert)
    except (ssl.SSLError, ValueError) as error:
        raise ArgumentError(f"the CA certificate can't be used: {error}") from None
    if request.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def read_block_map(stream: ObjectStream[bytes]) -> bytes:
    """Return a block map that a client sends.

    Raises:
        ArgumentError: it is too large to be one.
    """
    text = bytearray()
    while True:
        try:
            text += await stream.receive()
        except EndOfStream:
            return bytes(text)
        if len(text) > MAX_BLOCK_MAP:
            raise ArgumentError(f"the block map has more than {MAX_BLOCK_MAP} bytes")
