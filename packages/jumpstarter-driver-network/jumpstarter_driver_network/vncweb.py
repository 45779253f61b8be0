"""A web server on loopback that shows a VNC viewer and carries its WebSocket to a byte stream.

The WebSocket carries the RFB protocol (RFC 6143) as binary messages, as noVNC and websockify have it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ObjectStream

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "novnc"
"""The viewer: our page, and the noVNC library beside it."""

MAX_MESSAGE = 16 << 20
"""Largest message of the browser in bytes; a long clipboard is the largest thing that it sends."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that open connections may take when the server stops."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Opener = Callable[[], AbstractAsyncContextManager[ObjectStream[bytes]]]


def origin_of(url: str) -> str:
    """Return the origin of a web page, such as `https://example.org`.

    Raises:
        ValueError: `url` is not an http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"viewer must be an http or https URL, not {url!r}")
    return f"{parts.scheme}://{parts.netloc}"


@asynccontextmanager
async def serve_viewer(open_stream: Opener, *, origins: list[str]) -> AsyncGenerator[tuple[str, int], None]:
    """Serve the viewer, and a WebSocket on every path, on a free loopback port; yield host and port.

    Args:
        open_stream: opens a stream to the VNC server; called once for each WebSocket.
        origins: origins of other pages that may connect. The local page and programs that are no browsers always
            may; any other page in the user's browser is refused, since it could reach this port as well.
    """
    from aiohttp import web

    app = web.Application()
    server = ViewerServer(open_stream, origins)
    app.router.add_get("/{path:.*}", server.handle)
    app.on_response_prepare.append(_add_headers)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.hosts = {f"{name}:{port}" for name in (host, "localhost")}
        yield host, port
    finally:
        await server.close()
        await runner.cleanup()


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


class ViewerServer:
    """Answers the requests of browsers."""

    def __init__(self, open_stream: Opener, origins: list[str]) -> None:
        self.hosts: set[str] = set()
        """Values of the Host header that mean this server."""
        self._open_stream = open_stream
        self._origins = origins
        self._sockets: set[web.WebSocketResponse] = set()

    async def close(self) -> None:
        """Close the open WebSockets in the normal way."""
        for socket in list(self._sockets):
            with anyio.move_on_after(SHUTDOWN_TIMEOUT):
                await socket.close(code=1001, message=b"the viewer was closed")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request: a WebSocket, or a file of the viewer."""
        from aiohttp import web

        # A foreign name that resolves to loopback must not make a foreign page look like ours.
        if request.headers.get("Host") not in self.hosts:
            raise web.HTTPForbidden(text="this server answers to its loopback address only")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request)
        return self._file(request.match_info["path"] or "vnc.html")

    def _file(self, name: str) -> web.FileResponse:
        from aiohttp import web

        root = PAGES.resolve()
        path = root if "\0" in name else (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise web.HTTPNotFound(text=f"there is no page {name!r} here; the viewer is /vnc.html")
        return web.FileResponse(path)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        from aiohttp import web

        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc not in self.hosts:
            raise web.HTTPForbidden(text=f"pages of {origin} may not connect")
        socket = web.WebSocketResponse(protocols=("binary",), max_msg_size=MAX_MESSAGE, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async with self._open_stream() as stream:
                await _relay(socket, stream)
            await socket.close()
        except Exception as error:  # noqa: BLE001 - concerns this connection alone; the browser is told
            logger.warning("VNC connection failed: %s", error)
            await socket.close(code=1011, message=str(error).encode()[:100])
        finally:
            self._sockets.discard(socket)
        return socket


async def _relay(socket: web.WebSocketResponse, stream: ObjectStream[bytes]) -> None:
    """Carry bytes both ways until either side ends."""
    from aiohttp import WSMsgType

    async def from_browser() -> None:
        try:
            async for message in socket:
                data: Any = message.data
                if message.type is WSMsgType.BINARY:
                    await stream.send(data)
                elif message.type is WSMsgType.TEXT:
                    await stream.send(data.encode())
        except (BrokenResourceError, ClosedResourceError) as error:
            logger.debug("the VNC server is gone: %s", error)
        tg.cancel_scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(from_browser)
        try:
            while True:
                await socket.send_bytes(await stream.receive())
        except (EndOfStream, BrokenResourceError, ClosedResourceError, ConnectionError) as error:
            logger.debug("VNC connection ended: %r", error)
        tg.cancel_scope.cancel()
