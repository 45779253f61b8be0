"""Video on the exporter: the interface that video drivers implement, and cameras that are on the network."""

from __future__ import annotations

import base64
import ssl
from abc import ABCMeta, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
from anyio.abc import ObjectStream
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import create_memory_stream
from yarl import URL

from .camera import READ, Camera, is_stream, shown
from .common import CHUNK, UNARY_LIMIT, VideoState
from .errors import VideoError
from .gateway import Source, serve_http
from .jpeg import dimensions
from .meter import Meter
from .mjpeg import boundary_of

if TYPE_CHECKING:
    import aiohttp

__all__ = ["HttpVideo", "JpegSource", "VideoError", "VideoInterface", "VideoState"]

RATE_SECONDS: Final = 1.0
"""Seconds over which `state` counts the pictures of a stream."""

MAX_AGE: Final = 2.0
"""Seconds that a picture of a stream that is being watched counts as the picture of now."""


class VideoInterface(metaclass=ABCMeta):
    """What a driver offers whose clients look at pictures; its four methods are marked with `export` in each driver."""

    driver_type: ClassVar[str] = "video"

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_video.client.VideoClient"

    @abstractmethod
    async def snapshot(self) -> str:
        """Return a picture as it is now, a JPEG file in base64."""

    @abstractmethod
    async def state(self) -> VideoState:
        """Return what the source does at the moment."""

    @abstractmethod
    async def stream_path(self) -> str:
        """Return the path of the live stream, for requests over `connect`."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Any]:
        """Open a connection to the HTTP server that has the live stream."""


class JpegSource(VideoInterface):
    """A video driver that has its pictures as JPEG files: it implements `picture` and gets both forms of `snapshot`."""

    @abstractmethod
    async def picture(self) -> bytes:
        """Return a picture as it is now, a JPEG file.

        Raises:
            VideoError: there is none; the message says why, and what to do.
        """

    @export(watch=True)
    async def snapshot(self) -> str:
        """Return a picture as it is now, a JPEG file in base64.

        Raises:
            VideoError: there is none, or it is too large for this call.
        """
        picture = await self.picture()
        if len(picture) > UNARY_LIMIT:
            raise VideoError(
                f"the picture has {len(picture)} bytes, and more than {UNARY_LIMIT} don't fit into one message. "
                "Update the client, or have the source deliver smaller pictures"
            )
        return base64.b64encode(picture).decode()

    @export(watch=True)
    async def snapshot_chunks(self) -> AsyncGenerator[str, None]:
        """Yield a picture as it is now: a JPEG file in base64, in pieces that can be decoded one by one.

        Raises:
            VideoError: there is none.
        """
        picture = await self.picture()
        for start in range(0, len(picture), CHUNK):
            yield base64.b64encode(picture[start : start + CHUNK]).decode()


@dataclass(kw_only=True)
class HttpVideo(JpegSource, Driver):
    """A camera on the network that serves motion JPEG, still pictures, or both."""

    url: str
    """`http(s)://` address of the motion JPEG stream; of a still picture, when the camera has no stream."""
    snapshot_url: str | None = None
    """Address of a still picture; without one, pictures are taken from the stream."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 10
    """Seconds that the camera may take to connect, to answer, and between two pieces of data."""
    ca_file: str | None = None
    """PEM file of the authorities to trust for https; the system's unless given."""
    insecure_tls: bool = False
    """Accept any certificate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._meters: list[Meter] = []
        self._url, user, password = _address("url", self.url)
        self._snapshot_url = None
        if self.snapshot_url is not None:
            self._snapshot_url, second_user, second_password = _address("snapshot_url", self.snapshot_url)
            user, password = user or second_user, password or second_password
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not 0 < self.timeout <= 600:
            raise ValueError(f"timeout must be above 0 and at most 600 seconds, not {self.timeout!r}")
        if self.password is not None and self.username is None and user is None:
            raise ValueError("a password needs a username")
        self._camera = Camera(
            username=str(self.username) if self.username is not None else user,
            password=str(self.password) if self.password is not None else password,
            timeout=self.timeout,
            verify=self._verification(),
        )

    def _verification(self) -> ssl.SSLContext | bool:
        if self.insecure_tls:
            return False
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"ca_file {self.ca_file} can't be used: {error}") from None

    async def picture(self) -> bytes:
        """Return a picture as it is now: the one at `snapshot_url`, else the first one of the stream."""
        if self._snapshot_url is None and (passing := self._passing_by()) is not None:
            return passing[0]
        return await self._camera.picture(self._snapshot_url or self._url)

    def _passing_by(self) -> tuple[bytes, float] | None:
        """Return the latest picture and the rate of a stream that somebody watches, if there is one."""
        for meter in self._meters:
            if (picture := meter.latest(MAX_AGE)) is not None:
                return picture, meter.rate()
        return None

    @export(watch=True)
    async def state(self) -> VideoState:
        """Return whether the camera delivers pictures, their size, and how many arrive per second.

        It watches the stream for a second, unless somebody else does. A camera that can't be reached is no error here,
        but not online.
        """
        try:
            picture, rate = self._passing_by() or await self._camera.rate(self._url, RATE_SECONDS)
            width, height = dimensions(picture)
        except (VideoError, ValueError) as error:
            return VideoState(reason=str(error))
        return VideoState(online=True, width=width, height=height, fps=round(rate, 1))

    @export(watch=True)
    async def stream_path(self) -> str:
        """Return the path of the live stream, for requests over `connect`."""
        return "/stream"

    @exportstream(watch=True)
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a connection that takes one HTTP/1.1 request, for `/stream` or `/snapshot`.

        Nothing else of the camera can be reached by it, and its address and password stay on the exporter.
        """
        sources: dict[str, Source] = {
            "/stream": self._opened_stream,
            "/snapshot": self._opened_picture,
        }
        ours, theirs = create_memory_stream()
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_http, ours, sources, self.logger)
            try:
                async with theirs:
                    yield theirs
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _opened_stream(self) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]], None]:
        async with self._camera.get(self._url) as response:
            if not is_stream(response):
                raise VideoError(f"{shown(self._url)} is no live stream, but {response.content_type}")
            content_type = response.headers.get("Content-Type", "")
            meter = Meter(boundary_of(content_type))
            self._meters.append(meter)
            try:
                async with aclosing(_metered(response, meter)) as content:
                    yield content_type, content
            finally:
                self._meters.remove(meter)

    @asynccontextmanager
    async def _opened_picture(self) -> AsyncGenerator[tuple[str, AsyncIterator[bytes]], None]:
        picture = await self.picture()
        async with aclosing(_one(picture)) as content:
            yield "image/jpeg", content


async def _metered(response: aiohttp.ClientResponse, meter: Meter) -> AsyncGenerator[bytes, None]:
    async for data in response.content.iter_chunked(READ):
        meter.feed(data)
        yield data


async def _one(item: bytes) -> AsyncGenerator[bytes, None]:
    yield item


def _address(key: str, value: Any) -> tuple[URL, str | None, str | None]:
    """Return a URL without its user part, and that part.

    Raises:
        ValueError: it is no http or https URL; the message doesn't hold it, because there may be a password in it.
    """
    try:
        url = URL(value) if isinstance(value, str) else URL()
        valid = url.scheme in ("http", "https") and bool(url.host) and 0 < (url.port or 0) < 65536
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{key} must be an http or https URL such as http://192.0.2.20:8080/stream")
    return url.with_user(None), url.user, url.password
