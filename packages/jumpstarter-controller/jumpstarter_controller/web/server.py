"""The HTTP servers of a lab: REST, log-in and pages over TLS, and the metrics."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from aiohttp import web

from ..errors import Code, Refused
from .connections import BODY_LIMIT, Connections, Limits
from .dashboard import Dashboard
from .errors import answer, refusal
from .openapi import describe
from .pages import page
from .rest import add_routes
from .sessions import Sessions

if TYPE_CHECKING:
    from ..identity.authenticate import Authenticator
    from ..lab import Lab
    from ..router.pool import RouterPool
    from ..services.rpc import Guard

CLIENT_ID = "jumpstarter-cli"
"""What `jmp login` calls itself at login providers, unless it is told otherwise."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every answer that doesn't set them itself."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the pages and the API work with."""

    lab: Lab
    guard: Guard
    authenticator: Authenticator
    routers: RouterPool
    services: Sequence[Any]
    """Descriptors of the services whose annotated rpcs are served."""
    version: str
    url: str
    """Where people reach the server."""
    endpoint: str
    """Where peers reach the controller, `host:port`."""
    router_endpoint: str
    ca: str
    """PEM, empty for the roots of the system."""
    ready: Callable[[], bool]
    """Whether requests are served."""


@asynccontextmanager
async def serve_web(
    parts: Parts, listener: socket.socket, context: ssl.SSLContext, limits: Limits | None = None
) -> AsyncGenerator[None, None]:
    """Serve REST, log-in and pages while the body runs."""
    application = web.Application(client_max_size=BODY_LIMIT)
    application.on_response_prepare.append(_add_headers)
    sessions = Sessions(parts.authenticator, parts.lab.clock)
    dashboard = Dashboard(parts.lab, parts.routers, sessions, parts.endpoint)
    found = add_routes(application, parts.guard, parts.services)
    dashboard.add_routes(application)
    description = describe(found, version=parts.version, url=parts.url)
    add = application.router.add_get
    add("/", partial(_landing, parts))
    add("/v1/auth/config", partial(_auth_config, parts))
    add("/openapi.json", partial(_describe, sessions, description))
    add("/healthz", _health)
    add("/readyz", partial(_readiness, parts))
    connections = Connections(application, limits)
    dashboard.served_by(connections)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.changes.run)
        async with connections.serve(listener, context):
            try:
                yield
            finally:
                dashboard.changes.end()
        tasks.cancel_scope.cancel()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "jumpstarter"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


# -- for everybody ---------------------------------------------------------------------------------


async def _landing(parts: Parts, request: web.Request) -> web.StreamResponse:
    return page(
        "landing.html",
        endpoint=parts.endpoint,
        url=parts.url,
        oidc=bool(parts.lab.settings.jwt),
        private_ca=bool(parts.ca),
    )


async def _auth_config(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Tell `jmp login` where the controller is, and who logs people in."""
    settings = parts.lab.settings
    config: dict[str, Any] = {
        "grpcEndpoint": parts.endpoint,
        "routerEndpoint": parts.router_endpoint,
        "namespace": settings.namespace,
    }
    if parts.ca:
        config["caBundle"] = base64.b64encode(parts.ca.encode()).decode()
    if settings.jwt:
        issuers = [provider["issuer"] for provider in settings.jwt]
        config["oidc"] = [
            {"issuer": issuer["url"], "clientId": CLIENT_ID, "audiences": list(issuer.get("audiences", ()))}
            for issuer in issuers
        ]
    return answer(config)


async def _health(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


async def _readiness(parts: Parts, request: web.Request) -> web.StreamResponse:
    if parts.ready():
        return web.Response(text="ok")
    return web.Response(text="not ready", status=503)


async def _describe(sessions: Sessions, description: Any, request: web.Request) -> web.StreamResponse:
    if await sessions.visitor(request) is None:
        text = "send the token of a client or an admin as 'Authorization: Bearer TOKEN'"
        return refusal(Refused(Code.UNAUTHENTICATED, "CREDENTIALS_MISSING", text))
    return answer(description)
