"""A camera on the network: its still pictures and its motion JPEG stream over HTTP, with a bound on every wait."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .common import MAX_PICTURE
from .errors import VideoError
from .jpeg import SOI
from .mjpeg import MjpegError, MjpegReader, boundary_of

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

READ: Final = 256 << 10
"""Bytes that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where a camera is, and how to talk to it."""

    username: str | None = None
    password: str | None = None
    timeout: float = 10
    """Seconds that the camera may take to connect, to answer, and between two pieces of data."""
    verify: ssl.SSLContext | bool = True

    async def picture(self, url: URL) -> bytes:
        """Return one picture: the file at `url`, or the first one of the stream there.

        Raises:
            VideoError: there is none; the message says why.
        """
        async with self.get(url) as response:
            if is_stream(response):
                async with aclosing(self.pictures_of(response)) as pictures:
                    async for picture in pictures:
                        return picture
                raise VideoError(f"{shown(url)} ended its stream before the first picture")
            body = await _whole(response, url)
        if not body.startswith(SOI):
            raise VideoError(
                f"{shown(url)} is no JPEG picture and no motion JPEG stream, but {response.content_type} "
                f"({len(body)} bytes). Configure the address of the camera's snapshot or MJPEG stream"
            )
        return body

    @asynccontextmanager
    async def get(self, url: URL) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Yield the answer to a GET request, whose status is 200.

        Raises:
            VideoError: the camera can't be reached, answers something else, or its answer breaks off.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout, sock_read=self.timeout)
        connector = aiohttp.TCPConnector(limit=2, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=True) as session,
                await self._request(session, url) as response,
            ):
                if response.status != 200:
                    raise VideoError(self._refusal(url, response.status))
                yield response
        except TimeoutError:
            raise VideoError(f"{shown(url)} sent nothing for {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise VideoError(f"{shown(url)} can't be read: {reason(error)}") from None

    async def _request(self, session: aiohttp.ClientSession, url: URL) -> aiohttp.ClientResponse:
        """Send the request, with the credentials in the way that the camera asks for (RFC 7617, RFC 7616)."""
        import aiohttp

        response = await session.get(url, ssl=self.verify)
        if response.status != 401 or self.username is None:
            return response
        schemes = " ".join(response.headers.getall("WWW-Authenticate", [])).lower()
        response.close()
        options: dict[str, Any] = {}
        if "digest" in schemes:
            options["middlewares"] = (aiohttp.DigestAuthMiddleware(self.username, self.password or ""),)
        else:
            credentials = base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()
            options["headers"] = {"Authorization": f"Basic {credentials}"}
        return await session.get(url, ssl=self.verify, **options)

    def _refusal(self, url: URL, status: int) -> str:
        if status == 401:
            why = "refused these credentials" if self.username else "asks for a login: configure username and password"
            return f"{shown(url)} {why} (status 401)"
        hint = ". Check the path of the address" if status == 404 else ""
        return f"{shown(url)} answered with status {status}{hint}"

    async def pictures_of(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Yield the pictures of a stream.

        Raises:
            VideoError: it is no motion JPEG.
        """
        reader = MjpegReader(boundary_of(response.headers.get("Content-Type", "")))
        try:
            async for data in response.content.iter_chunked(READ):
                for picture in reader.feed(data):
                    yield picture
        except MjpegError as error:
            raise VideoError(f"{shown(response.url)} is no motion JPEG stream: {error}") from None

    async def rate(self, url: URL, seconds: float) -> tuple[bytes, float]:
        """Return a picture, and how many per second arrive, measured over `seconds`; 0 where there is no stream.

        Raises:
            VideoError: there is no picture.
        """
        last, count, started = b"", 0, 0.0
        async with self.get(url) as response:
            if not is_stream(response):
                return await _whole(response, url), 0
            async with aclosing(self.pictures_of(response)) as pictures:
                async for last in pictures:
                    now = time.monotonic()
                    count, started = count + 1, started or now
                    if now - started >= seconds:
                        return last, (count - 1) / (now - started)
        if not last:
            raise VideoError(f"{shown(url)} ended its stream before the first picture")
        return last, 0


async def _whole(response: aiohttp.ClientResponse, url: URL) -> bytes:
    body = bytearray()
    async for data in response.content.iter_chunked(READ):
        body += data
        if len(body) > MAX_PICTURE:
            raise VideoError(f"the picture at {shown(url)} is larger than {MAX_PICTURE} bytes")
    return bytes(body)


def reason(error: Exception) -> str:
    """Return why a request failed, in a few words; the text of aiohttp's errors has more than that."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__


def is_stream(response: aiohttp.ClientResponse) -> bool:
    """Whether an answer is a motion JPEG stream, by its Content-Type."""
    return response.content_type.startswith("multipart/")


def shown(url: URL) -> str:
    """Return a URL for messages and logs: without credentials, and without the query, which may hold some too."""
    return str(url.with_user(None).with_query(None).with_fragment(None))
