"""Serves requests that come as raw HTTP/1.1 over a byte stream from what a camera has, and nothing else of it.

The client names one of our paths; which address on the network that is, and with which credentials it is read, stays
here.
Every answer ends the connection (RFC 9112, 9.6), so its body needs no framing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ObjectStream

from .errors import VideoError

MAX_HEAD: Final = 16 << 10
"""Bytes of a request's head."""

HEAD_TIMEOUT: Final = 30.0
"""Seconds that a client may take to send it."""

Source = Callable[[], AbstractAsyncContextManager[tuple[str, AsyncIterator[bytes]]]]
"""Opens what the camera has: its Content-Type, and its content."""

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 502: "Bad Gateway"}


async def serve_http(stream: ObjectStream[bytes], sources: Mapping[str, Source], logger: logging.Logger) -> None:
    """Answer one request on `stream`, and close it.

    Args:
        stream: from and to the client.
        sources: by path, what opens the answer of the camera.
        logger: gets what the camera did wrong.
    """
    async with stream:
        try:
            with anyio.fail_after(HEAD_TIMEOUT):
                head = await _read_head(stream)
            await _answer(stream, head, sources, logger)
        except (BrokenResourceError, ClosedResourceError, EndOfStream, TimeoutError) as error:
            logger.debug("a viewer went away: %r", error)


async def _read_head(stream: ObjectStream[bytes]) -> bytes:
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD:
        head += await stream.receive()
    return bytes(head)


async def _answer(
    stream: ObjectStream[bytes], head: bytes, sources: Mapping[str, Source], logger: logging.Logger
) -> None:
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or len(head) > MAX_HEAD:
        await _text(stream, 400, "this is no HTTP/1.1 request")
        return
    method, target, _ = words
    source = sources.get(target.split("?", 1)[0])
    if source is None:
        await _text(stream, 404, f"only {' and '.join(sources)} are here")
        return
    if method not in ("GET", "HEAD"):
        await _text(stream, 405, "only GET and HEAD are possible")
        return
    begun = False
    try:
        async with source() as (content_type, content):
            await stream.send(_head(200, content_type))
            begun = True
            if method == "GET":
                async for data in content:
                    await stream.send(data)
    except VideoError as error:
        logger.warning("%s", error)
        if not begun:
            await _text(stream, 502, str(error))


async def _text(stream: ObjectStream[bytes], status: int, text: str) -> None:
    await stream.send(_head(status, "text/plain; charset=utf-8") + text.encode() + b"\n")


def _head(status: int, content_type: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        "Cache-Control: no-store",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1", "replace")
