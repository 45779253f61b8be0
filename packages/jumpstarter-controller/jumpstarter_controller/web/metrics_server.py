"""Serves metrics to Prometheus over plain HTTP, for loopback or a network that may see them."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from .connections import Connections


@asynccontextmanager
async def serve_metrics(registry: CollectorRegistry, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Serve `/metrics` while the body runs."""
    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", partial(_metrics, registry))
    async with Connections(application).serve(listener, None):
        yield


async def _metrics(registry: CollectorRegistry, request: web.Request) -> web.StreamResponse:
    # On the event loop, where everything that is read is changed as well.
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": kind, "Cache-Control": "no-store"})
