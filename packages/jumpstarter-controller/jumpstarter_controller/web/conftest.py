"""A lab with its web server, for the tests of this folder."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jumpstarter_controller.lab import Actor, LeaseRequest
from jumpstarter_controller.model.records import Device, ExporterStatus, Kind, Lease
from jumpstarter_controller.server import Endpoints
from jumpstarter_controller.testing import Login, RunningLab, running_lab
from jumpstarter_controller.web.sessions import COOKIE

WEB = Endpoints(listen="127.0.0.1:0", web_listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")


@dataclass
class Answer:
    """An answer of the web server."""

    status: int
    headers: Any
    text: str
    json: Any


@dataclass
class Web:
    """A lab, and what speaks HTTP with it."""

    running: RunningLab
    session: aiohttp.ClientSession
    exporters: ExitStack

    @property
    def url(self) -> str:
        return self.running.server.web_url

    @property
    def context(self) -> ssl.SSLContext:
        """Trusts the lab's authority, and nobody else."""
        return ssl.create_default_context(cadata=self.running.ca)

    async def ask(self, verb: str, path: str, login: Login | str | None = None, **options: Any) -> Answer:
        """Make a request, as an account when there is one, or with any token."""
        headers = dict(options.pop("headers", {}))
        if login is not None:
            headers["Authorization"] = f"Bearer {login if isinstance(login, str) else login.token}"
        async with self.session.request(
            verb, self.url + path, headers=headers, allow_redirects=False, **options
        ) as response:
            text = (await response.read()).decode()
            json = await response.json() if response.content_type == "application/json" else None
            return Answer(response.status, response.headers, text, json)

    async def log_in(self, token: str, **options: Any) -> tuple[Answer, dict[str, str]]:
        """Use the form of the log-in page; return the answer and the cookies that it sets."""
        answer = await self.ask("POST", "/login", data={"token": token}, **options)
        cookie = answer.headers.get("Set-Cookie", "").partition(";")[0].partition("=")
        return answer, ({"Cookie": f"{COOKIE}={cookie[2]}"} if cookie[0] == COOKIE else {})

    async def board(self, name: str = "board", **account: Any) -> Login:
        """Make an exporter that can be leased."""
        login = await self.running.exporter(name, **account)
        actor = Actor(kind="exporter", key=login.key)
        await self.running.lab.register(actor, {}, [Device(uuid=f"{name}-device")])
        await self.running.lab.report_status(actor, ExporterStatus.AVAILABLE)
        self.exporters.enter_context(self.running.lab.connected(actor))
        await self.running.until(login.key, lambda record: record.online)
        return login

    async def lease(self, login: Login, **request: Any) -> Lease:
        """Ask for a lease as a client."""
        return await self.running.lab.create_lease(Actor(kind="client", key=login.key), LeaseRequest(**request))

    async def metrics(self, accept: str = "application/openmetrics-text") -> str:
        """Return the metrics."""
        url = f"http://127.0.0.1:{self.running.server.metrics_port}/metrics"
        async with self.session.get(url, headers={"Accept": accept}) as response:
            assert response.status == 200
            return await response.text()


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Web]:
    """Run a lab with all its ports on loopback; settings as of `running_lab`."""
    async with running_lab(folder, server={"endpoints": WEB}, **settings) as running:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=running.ca))
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            with ExitStack() as exporters:
                yield Web(running, session, exporters)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """A lab that serves on the event loop of the test."""
    async with serving(tmp_path) as web:
        yield web


@pytest.fixture
async def alice(web: Web) -> Login:
    """A client."""
    return await web.running.client("alice")


@pytest.fixture
async def bob(web: Web) -> Login:
    """Another client."""
    return await web.running.client("bob")


@pytest.fixture
async def root(web: Web) -> Login:
    """An admin."""
    return await web.running.account(Kind.ADMIN, "root")
