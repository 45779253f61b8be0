"""The pages of the lab: the landing page for everybody, log-in, and the dashboard for who is logged in."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import anyio
from aiohttp import web

from ..errors import Refused
from ..lab import Actor
from ..model.records import Key, Kind
from .board import look
from .changes import Changes
from .connections import Connections
from .errors import HTTP_STATUS, meaning
from .pages import page, render
from .rest import read_body
from .sessions import COOKIE, LIFE, Sessions

if TYPE_CHECKING:
    from ..lab import Lab
    from ..router.pool import RouterPool

FRESH = 1.0
"""Seconds for which what was written for one reader is good for others, as long as nothing changes."""

HEARTBEAT = 10.0
"""Seconds after which something is sent to who waits for changes, and whether it still may is looked at."""

TAKE = 10.0
"""Seconds that a reader has for taking what it is sent."""

MOST_READERS = 200
MOST_OF_ONE = 10
"""Pages that wait for changes, in all and of one account."""


class Dashboard:
    """Serves the dashboard."""

    def __init__(self, lab: Lab, routers: RouterPool, sessions: Sessions, endpoint: str) -> None:
        self.changes = Changes(lab)
        self._lab = lab
        self._routers = routers
        self._sessions = sessions
        self._endpoint = endpoint
        self._written: dict[tuple[str, bool], tuple[float, int, str]] = {}
        self._writing: dict[tuple[str, bool], anyio.Lock] = {}
        self._readers: Counter[Key] = Counter()
        self._connections: Connections | None = None

    def add_routes(self, application: web.Application) -> None:
        """Serve the pages."""
        add = application.router.add_route
        add("GET", "/login", self._login_page)
        add("POST", "/login", self._login)
        add("POST", "/logout", self._logout)
        add("GET", "/dashboard", self._page)
        add("GET", "/dashboard/content", self._content)
        add("GET", "/dashboard/events", self._events)

    def served_by(self, connections: Connections) -> None:
        """Say which connections have to last for those who wait for changes."""
        self._connections = connections

    # -- log-in ------------------------------------------------------------------------------------

    async def _login_page(self, request: web.Request) -> web.StreamResponse:
        return self._ask()

    def _ask(self, message: str = "", status: int = 200) -> web.Response:
        return page("login.html", status=status, endpoint=self._endpoint, message=message)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        _check_origin(request)
        try:
            body = await read_body(request)
            token = parse_qs(body.decode("ascii", "replace"), max_num_fields=4).get("token", [""])[0].strip()
            cookie = await self._sessions.begin(token, request.remote or "")
        except ValueError:
            return self._ask("The form has too many fields.", 400)
        except Refused as error:
            return self._ask(_why(error), HTTP_STATUS[meaning(error).code])
        response = web.Response(status=303, headers={"Location": "/dashboard"})
        response.set_cookie(
            COOKIE, cookie, path="/", secure=True, httponly=True, samesite="Strict", max_age=round(LIFE)
        )
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        _check_origin(request)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def _visitor(self, request: web.Request) -> Actor:
        try:
            actor = await self._sessions.visitor(request)
        except Refused as error:
            raise web.HTTPUnauthorized(text=_why(error), headers=_CHALLENGE) from None
        if actor is None:
            raise web.HTTPUnauthorized(text="Log in first.", headers=_CHALLENGE)
        return actor

    # -- what there is to see ----------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.StreamResponse:
        try:
            actor = await self._visitor(request)
        except web.HTTPUnauthorized:
            if "Authorization" in request.headers:
                raise
            return web.Response(status=303, headers={"Location": "/login"})
        assert actor.key is not None
        text = await self._write(actor)
        return await anyio.to_thread.run_sync(
            partial(
                page,
                "dashboard.html",
                endpoint=self._endpoint,
                who=actor.key.name,
                kind=actor.kind,
                content=text,
            )
        )

    async def _content(self, request: web.Request) -> web.StreamResponse:
        text = await self._write(await self._visitor(request))
        now = self._lab.clock.now().isoformat(timespec="milliseconds")
        response = web.Response(text=text, content_type="text/html", headers={"X-Lab-Time": now})
        response.enable_compression()
        return response

    async def _write(self, actor: Actor) -> str:
        """Return what somebody sees; written once for all who see the same."""
        scope = _scope(actor)
        async with self._writing.setdefault(scope, anyio.Lock()):
            revision = self.changes.revision(scope[0])
            when, known, text = self._written.get(scope, (0.0, -1, ""))
            if known != revision or time.monotonic() - when > FRESH:
                board = await look(self._lab, self._routers, scope[0], admin=scope[1])
                text = await anyio.to_thread.run_sync(partial(render, "board.html", board=board))
                self._written[scope] = time.monotonic(), revision, text
        return text

    # -- news --------------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        actor = await self._visitor(request)
        assert actor.key is not None
        if self._readers.total() >= MOST_READERS or self._readers[actor.key] >= MOST_OF_ONE:
            raise web.HTTPServiceUnavailable(text="Too many pages are open; close some.")
        if self._connections is not None:
            self._connections.allow_long(request)
        self._readers[actor.key] += 1
        try:
            return await self._tell(request, actor)
        finally:
            self._readers[actor.key] -= 1
            if not self._readers[actor.key]:
                del self._readers[actor.key]

    async def _tell(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        scope, admin = _scope(actor)
        revision = self.changes.revision(scope)

        async def send(text: str) -> None:
            with anyio.fail_after(TAKE):
                await response.write(text.encode())

        try:
            await response.prepare(request)
            await send("retry: 2000\n\n")
            while True:
                before = revision
                with anyio.move_on_after(HEARTBEAT):
                    revision = await self.changes.after(scope, revision)
                if self.changes.ended:
                    break
                if await self._gone(request):
                    await send("event: ended\ndata: -\n\n")
                    break
                # Admins see routers as well, whose load changes without an event.
                news = revision != before or admin
                await send(f"event: changed\nid: {revision}\ndata: -\n\n" if news else ": still here\n\n")
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass
        return response

    async def _gone(self, request: web.Request) -> bool:
        try:
            return await self._sessions.visitor(request) is None
        except Refused:
            return True


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="jumpstarter"'}


def _scope(actor: Actor) -> tuple[str, bool]:
    """Return the namespace that somebody sees, empty for all, and whether it is an admin."""
    assert actor.key is not None
    admin = actor.key.kind is Kind.ADMIN
    return ("" if admin else actor.key.namespace), admin


def _check_origin(request: web.Request) -> None:
    """Refuse forms of other sites."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        fine = site in ("same-origin", "none")
    else:
        fine = origin is None or urlsplit(origin).netloc == request.host
    if not fine:
        raise web.HTTPForbidden(text="This form was sent by another site.")


def _why(error: Refused) -> str:
    if error.reason in ("CREDENTIALS_MISSING", "METADATA_INVALID"):
        return "Paste the token of a client or an admin."
    if error.reason == "KIND_MISMATCH":
        return "That token is not one of a client or an admin."
    return f"{error.message[:1].upper()}{error.message[1:]}."
