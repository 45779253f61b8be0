"""A real browser without a screen, told what to do by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jumpstarter_testbench.process import running
from jumpstarter_testbench.requirements import need, program

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

TIMEOUT = 30
"""Seconds that a page may take until it is as a test wants it."""


class Browser:
    """One page."""

    def __init__(self, page: ClientConnection) -> None:
        self._page = page
        self._number = 0

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._page.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._page.recv(TIMEOUT))).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            AssertionError: it isn't within TIMEOUT; the message shows the text of the page.
        """
        deadline = time.monotonic() + TIMEOUT
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)

    def screenshot(self, path: Path) -> Path:
        """Write what the page looks like to a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str], Browser]]:
    """Open a page in a headless Chromium; called once in a test."""
    from websockets.sync.client import connect

    need("chromium")
    with ExitStack() as stack:

        def open_page(url: str) -> Browser:
            port_file = tmp_path / "profile" / "DevToolsActivePort"
            command = [
                *(program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={port_file.parent}", "--remote-debugging-port=0", url),
            ]
            log = tmp_path / "browser.log"
            stack.enter_context(
                running(command, log=log, ready=lambda: port_file.read_text().count("\n") > 0, timeout=60)
            )
            address = f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list"
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                pages = json.load(answer)
            target = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
            return Browser(stack.enter_context(connect(target, max_size=None)))

        yield open_page
