"""A page on loopback that shows a live picture: the page itself, and the picture through the driver's stream.

Browsers show a `multipart/x-mixed-replace` answer in an ordinary <img>, so the page passes on what the camera sends.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from jumpstarter.client.adapters import blocking
from jumpstarter.client.core import DriverError

if TYPE_CHECKING:
    from aiohttp import ClientSession, web

    from .client import VideoClient

logger = logging.getLogger(__name__)

PAGES: Final = Path(__file__).parent / "web"

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that open requests may take when the server stops."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds until the camera must have answered, through the driver; then the stream may last for ever."""

READ: Final = 256 << 10

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Other pages in the same browser could otherwise show the picture in theirs.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_FILES: Final = {"/": "player.html", "/player.js": "player.js", "/player.css": "player.css"}


@blocking
@asynccontextmanager
async def VideoPlayer(*, client: VideoClient, port: int = 0) -> AsyncGenerator[str, None]:
    """Serve the page on a loopback port, 0 for a free one, and yield its URL.

    Raises:
        OSError: the port can't be had.
    """
    import aiohttp
    from aiohttp import web
    from jumpstarter.common import TemporaryUnixListener
    from jumpstarter.streams.common import forward_stream

    async def tunnel(connection: Any) -> None:
        async with connection, client.stream_async("connect") as stream, forward_stream(connection, stream):
            pass

    # The HTTP client needs a socket to connect to; this one is in a directory that only this user can enter.
    async with TemporaryUnixListener(tunnel) as path:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_TIMEOUT)
        connector = aiohttp.UnixConnector(str(path), limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            server = PlayerServer(client, session)

            @web.middleware
            async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
                return await server.guarded(request, handler)

            app = web.Application(middlewares=[guard])
            app.router.add_get("/stream", server.stream)
            app.router.add_get("/snapshot", server.snapshot)
            app.router.add_get("/state", server.state)
            for name, file in _FILES.items():
                app.router.add_get(name, partial(server.file, file))
            app.on_response_prepare.append(_add_headers)
            runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT)
            await runner.setup()
            try:
                host, bound = await _listen(runner, port)
                server.hosts = {f"{name}:{bound}" for name in (host, "localhost")}
                yield f"http://{host}:{bound}/"
            finally:
                await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int) -> tuple[str, int]:
    from aiohttp import web

    host = "127.0.0.1"
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        import os

        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"can't listen on {host} port {port}: {why}") from error
    address = runner.addresses[0]
    return str(address[0]), int(address[1])


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


class PlayerServer:
    """Answers the requests of browsers."""

    def __init__(self, client: VideoClient, session: ClientSession) -> None:
        self.hosts: set[str] = set()
        """Values of the Host header that mean this server."""
        self._client = client
        self._session = session

    async def guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse requests that a foreign page has the browser make, and turn errors of the driver into text."""
        from aiohttp import web

        # A foreign name that resolves to loopback must not make a foreign page look like ours.
        if request.headers.get("Host") not in self.hosts:
            raise web.HTTPForbidden(text="this server answers to its loopback address only")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc not in self.hosts:
            raise web.HTTPForbidden(text=f"pages of {origin} may not look")
        try:
            answer: web.StreamResponse = await handler(request)
        except DriverError as error:
            raise web.HTTPBadGateway(text=str(error)) from error
        return answer

    async def file(self, name: str, _: web.Request) -> web.StreamResponse:
        """Answer with a file of the page."""
        from aiohttp import web

        return web.FileResponse(PAGES / name)

    async def state(self, _: web.Request) -> web.Response:
        """Answer with the state of the source, as JSON."""
        from aiohttp import web

        from .common import VideoState

        found = VideoState.model_validate(await self._client.call_async("state"))
        return web.json_response({**found.model_dump(mode="json"), "name": self._client.name})

    async def snapshot(self, _: web.Request) -> web.Response:
        """Answer with a picture as it is now."""
        from aiohttp import web

        return web.Response(body=await self._client.snapshot_bytes_async(), content_type="image/jpeg")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Pass on the live stream, as long as both sides want."""
        import aiohttp
        from aiohttp import web

        path = await self._client.stream_path_async()
        try:
            async with self._session.get(f"http://localhost{path}") as source:
                if source.status != 200:
                    text = (await source.content.read(2000)).decode(errors="replace").strip()
                    return web.Response(status=502, text=text or f"the source answered with status {source.status}")
                answer = web.StreamResponse(headers={"Content-Type": source.headers.get("Content-Type", "")})
                await answer.prepare(request)
                async for data in source.content.iter_chunked(READ):
                    await answer.write(data)
                await answer.write_eof()
                return answer
        except ConnectionResetError as error:
            # The browser left; the rest is the business of nobody.
            raise web.HTTPGone(text=str(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("the live picture ended: %s", error or type(error).__name__)
            raise web.HTTPBadGateway(text=f"the source ended the stream: {error or type(error).__name__}") from error
