"""A VNC viewer in the browser: a local web page, and the WebSocket that it gets its picture from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from jumpstarter.client import DriverClient
from jumpstarter.client.adapters import blocking


@blocking
@asynccontextmanager
async def NovncAdapter(
    *, client: DriverClient, method: str = "connect", encrypt: bool = False, viewer: str | None = None
) -> AsyncGenerator[str, None]:
    """Serve a VNC viewer for the target on a loopback port, and yield the URL to open in a browser.

    Args:
        client: client of a network driver that leads to a VNC server.
        method: name of the driver's stream.
        encrypt: have the viewer speak `wss://`; only for a port that something else wraps in TLS, since this
            one speaks plain WebSocket.
        viewer: URL of another noVNC page to use instead of the local one. Browsers let a page that came over
            `https://` speak to a plain local port only if the page's owner and the browser allow it.

    Raises:
        ValueError: `viewer` is not an http or https URL.
    """
    from jumpstarter_driver_network.vncweb import origin_of, serve_viewer

    origins = [origin_of(viewer)] if viewer is not None else []
    async with serve_viewer(lambda: client.stream_async(method), origins=origins) as (host, port):
        query = urlencode(
            {"encrypt": int(encrypt), "autoconnect": 1, "reconnect": 1, "host": host, "port": port},
        )
        yield f"{viewer or f'http://{host}:{port}/vnc.html'}?{query}"
