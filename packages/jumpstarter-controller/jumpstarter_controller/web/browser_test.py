"""The dashboard in a real browser: its own policy lets it work, it refreshes itself, and fits a narrow screen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from jumpstarter_controller.lab import Actor
from jumpstarter_controller.model.records import ExporterStatus
from jumpstarter_controller.testing import Login
from jumpstarter_controller.web.conftest import Web

pytestmark = pytest.mark.need("chromium")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)


@dataclass
class Page:
    """A page of a browser, by its DevTools protocol."""

    socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    number: int = 0
    complaints: list[str] | None = None

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        await self.socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
        with anyio.fail_after(20):
            while True:
                answer = await self.socket.receive_json()
                if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                    self.complaints = [*(self.complaints or []), json.dumps(answer["params"])]
                if answer.get("id") == self.number:
                    assert "error" not in answer, answer
                    return answer["result"]

    async def run(self, script: str) -> Any:
        """Return the value of an expression."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        with anyio.fail_after(20):
            while not await self.run(script):
                pass

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    async def log_in(self, web: Web, login: Login) -> None:
        """Use the form, as people do."""
        await self.open(f"{web.url}/login")
        fill = f"document.getElementById('token').value = {json.dumps(login.token)}"
        await self.run(f"{fill}; document.querySelector('main button').click()")
        await self.until("location.pathname === '/dashboard' && document.readyState === 'complete'")


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """A new page of a browser with a profile of its own."""
    profile = tmp_path / "profile"
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        where = profile / "DevToolsActivePort"
        with anyio.fail_after(30):
            while not (where.exists() and len(where.read_text().split()) == 2):
                assert process.returncode is None
                await anyio.sleep(0.05)
        port, path = where.read_text().split()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            page = Page(socket)
            target = (await page.call("Target.createTarget", url="about:blank"))["targetId"]
            page.session = (await page.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            yield page
    finally:
        process.terminate()
        with anyio.fail_after(20, shield=True):
            await process.wait()


async def test_it_refreshes_itself_filters_and_never_runs_what_others_wrote(web: Web, alice: Login, page: Page) -> None:
    board = await web.board("board-1", labels={"kind": "x"})
    await web.board("board-2")
    evil = "<img src=x onerror=\"document.title='owned'\">"
    await web.running.lab.report_status(Actor(kind="exporter", key=board.key), ExporterStatus.AVAILABLE, evil)
    await page.log_in(web, alice)
    await page.until("document.getElementById('state').textContent === 'live'")
    assert await page.run("document.querySelectorAll('.exporters tbody tr').length") == 2
    assert evil in await page.run("document.querySelector('.exporters').textContent")
    # Something new is there without anybody's doing.
    await web.lease(alice, exporter_name="board-2", duration=timedelta(hours=1), name="news")
    await page.until("document.querySelector('.leases').textContent.includes('news')")
    # The filter stays when the page refreshes itself.
    await page.run(
        "document.getElementById('filter').value = 'BOARD-1';"
        "document.getElementById('filter').dispatchEvent(new Event('input'))"
    )
    await web.board("board-3")
    await page.until("document.querySelectorAll('.exporters tbody tr').length === 3")
    assert await page.run("document.querySelectorAll('.exporters tbody tr:not([hidden])').length") == 1
    assert (await page.run("document.title")).startswith("Dashboard ")
    assert page.complaints is None


async def test_it_fits_a_narrow_screen(web: Web, alice: Login, page: Page) -> None:
    await web.board("b" * 63, labels={"k" * 60: "v" * 60})
    await web.lease(alice, selector=f"{'k' * 60}={'v' * 60}", duration=timedelta(hours=1), tags={"t" * 20: "u" * 40})
    await page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
    await page.log_in(web, alice)
    assert await page.run("document.documentElement.scrollWidth <= 360")


async def test_losing_the_right_closes_the_page(web: Web, alice: Login, page: Page) -> None:
    from jumpstarter_controller.testing import SERVER

    await page.log_in(web, alice)
    await page.until("document.getElementById('state').textContent === 'live'")
    await web.running.lab.delete_account(SERVER, alice.key)
    await web.board("board")
    await page.until("location.pathname === '/login'")
