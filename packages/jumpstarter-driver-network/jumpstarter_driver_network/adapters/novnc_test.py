"""The VNC viewer: its page, its WebSocket, whom it refuses, and a real VNC server behind it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from jumpstarter.common.utils import serve
from jumpstarter_testbench.process import accepts_unix, running
from jumpstarter_testbench.requirements import need, program
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from jumpstarter_driver_network.adapters import NovncAdapter
from jumpstarter_driver_network.driver import EchoNetwork, TcpNetwork, UnixNetwork


@pytest.fixture
def url() -> Iterator[str]:
    """The viewer of a target that echoes."""
    with serve(EchoNetwork()) as client, NovncAdapter(client=client) as found:
        yield found


def socket_url(page: str, path: str = "/") -> str:
    """The WebSocket that the page at `page` connects to, by its own query."""
    query = parse_qs(urlsplit(page).query)
    return f"ws://{query['host'][0]}:{query['port'][0]}{path}"


def fetch(url: str, **headers: str) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)


@pytest.fixture
def qemu_vnc(tmp_path: Path) -> Iterator[Path]:
    """QEMU's VNC server, of a machine that does not run; the path of its socket."""
    need("qemu-x86_64")
    path = tmp_path / "vnc"
    command = [
        *(program("qemu-system-x86_64"), "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-S"),
        *("-name", "testboard", "-display", "none", "-device", "VGA", "-vnc", f"unix:{path}"),
    ]
    with running(command, log=tmp_path / "log", ready=lambda: accepts_unix(path)):
        yield path


def test_url_says_where_the_socket_is(url: str) -> None:
    parts = urlsplit(url)
    query = parse_qs(parts.query)

    assert (parts.scheme, parts.path) == ("http", "/vnc.html")
    assert parts.netloc == f"{query['host'][0]}:{query['port'][0]}"
    assert (query["autoconnect"], query["reconnect"], query["encrypt"]) == (["1"], ["1"], ["0"])


def test_page_and_library_are_served_locally(url: str) -> None:
    page = fetch(url)
    text = page.read().decode()

    assert page.headers["Content-Type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    for name in ("vnc.js", "vnc.css"):
        assert name in text
    for name in ("vnc.js", "core/rfb.js", "vendor/pako/lib/zlib/inflate.js"):
        script = fetch(url.replace("vnc.html", name))
        assert "javascript" in script.headers["Content-Type"]
        assert script.read()


@pytest.mark.parametrize("path", ["nothing.html", "..%2fvncweb.py", "%2e%2e/vncweb.py", "core", "%00"])
def test_nothing_else_is_served(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url.replace("vnc.html", path))

    assert caught.value.code in (400, 404)


def test_binary_messages_pass_in_both_directions(url: str) -> None:
    with connect(socket_url(url)) as browser:
        browser.send(b"\x00\xffhello")
        assert browser.recv(10) == b"\x00\xffhello"


def test_text_message_passes_as_bytes_and_harms_nobody(url: str) -> None:
    with connect(socket_url(url)) as browser:
        browser.send("hello")
        assert browser.recv(10) == b"hello"
        browser.send(b"again")
        assert browser.recv(10) == b"again"


def test_ping_is_answered_while_the_target_is_silent(url: str) -> None:
    with connect(socket_url(url)) as browser:
        assert browser.ping().wait(10)


def test_subprotocol_that_viewers_offer_is_chosen(url: str) -> None:
    with connect(socket_url(url, "/websockify"), subprotocols=["binary"]) as browser:  # type: ignore[list-item]
        assert browser.subprotocol == "binary"
    with connect(socket_url(url)) as browser:
        assert browser.subprotocol is None


def test_own_page_may_connect(url: str) -> None:
    parts = urlsplit(url)
    with connect(socket_url(url), origin=f"http://{parts.netloc}") as browser:  # type: ignore[arg-type]
        browser.send(b"x")
        assert browser.recv(10) == b"x"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
def test_foreign_page_may_not_connect(url: str, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(socket_url(url), origin=origin):  # type: ignore[arg-type]
        pass

    assert caught.value.response.status_code == 403


def test_foreign_name_for_this_address_is_refused(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url, Host="evil.example")

    assert caught.value.code == 403


def test_other_viewer_may_connect_when_it_was_asked_for() -> None:
    viewer = "https://novnc.com/noVNC/vnc.html"
    with serve(EchoNetwork()) as client, NovncAdapter(client=client, viewer=viewer, encrypt=True) as url:
        assert url.startswith(f"{viewer}?encrypt=1&autoconnect=1&reconnect=1&host=127.0.0.1&port=")
        with connect(socket_url(url), origin="https://novnc.com") as browser:  # type: ignore[arg-type]
            browser.send(b"x")
            assert browser.recv(10) == b"x"


def test_viewer_that_is_no_page_is_refused() -> None:
    with (
        serve(EchoNetwork()) as client,
        pytest.raises(ValueError, match="viewer must be an http or https URL"),
        NovncAdapter(client=client, viewer="javascript:alert(1)"),
    ):
        pass


def test_end_of_the_target_closes_the_socket(tcp_target: Callable[..., int]) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=tcp_target(lambda conn: conn.sendall(b"bye")))) as client,
        NovncAdapter(client=client) as url,
        connect(socket_url(url)) as browser,
    ):
        assert browser.recv(10) == b"bye"
        with pytest.raises(ConnectionClosed) as caught:
            browser.recv(10)

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1000


def test_target_that_refuses_is_told_to_the_browser(closed_port: int) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=closed_port)) as client,
        NovncAdapter(client=client) as url,
        connect(socket_url(url)) as browser,
        pytest.raises(ConnectionClosed) as caught,
    ):
        browser.recv(10)

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011
    assert "can't connect to TCP" in caught.value.rcvd.reason


def test_open_sockets_end_with_the_viewer() -> None:
    with serve(EchoNetwork()) as client, ExitStack() as stack:
        viewer = stack.enter_context(ExitStack())
        url = viewer.enter_context(NovncAdapter(client=client))
        browser = stack.enter_context(connect(socket_url(url)))
        browser.send(b"x")
        assert browser.recv(10) == b"x"
        viewer.close()
        with pytest.raises(ConnectionClosed):
            browser.recv(10)


@pytest.mark.device
def test_rfb_handshake_with_qemu(qemu_vnc: Path) -> None:
    """RFC 6143, 7.1: version, security type 1 (none), result, and the server's description of its screen."""
    with (
        serve(UnixNetwork(path=str(qemu_vnc))) as client,
        NovncAdapter(client=client) as url,
        connect(socket_url(url), subprotocols=["binary"]) as browser,  # type: ignore[list-item]
    ):
        received = b""

        def read(count: int) -> bytes:
            nonlocal received
            while len(received) < count:
                message = browser.recv(10)
                assert isinstance(message, bytes)
                received += message
            head, received = received[:count], received[count:]
            return head

        assert read(12) == b"RFB 003.008\n"
        browser.send(b"RFB 003.008\n")
        types = read(read(1)[0])
        assert 1 in types
        browser.send(b"\1")
        assert read(4) == bytes(4)
        browser.send(b"\1")
        width, height = int.from_bytes(read(2)), int.from_bytes(read(2))
        read(16)
        name = read(int.from_bytes(read(4))).decode()

    assert width >= 640
    assert height >= 400
    assert name == "QEMU (testboard)"


class Browser:
    """A real browser with one page, told what to do over its DevTools protocol."""

    def __init__(self, page: ClientConnection) -> None:
        self._page = page
        self._number = 0

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page."""
        self._number += 1
        parameters = {"expression": expression, "returnByValue": True}
        self._page.send(json.dumps({"id": self._number, "method": "Runtime.evaluate", "params": parameters}))
        while (answer := json.loads(self._page.recv(20))).get("id") != self._number:
            pass
        return answer["result"]["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + 20
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str], Browser]]:
    """Open a page in a headless Chromium."""
    with ExitStack() as stack:
        need("chromium")

        def open_page(url: str) -> Browser:
            port_file = tmp_path / "profile" / "DevToolsActivePort"
            command = [
                *(program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={port_file.parent}", "--remote-debugging-port=0", url),
            ]
            log = tmp_path / "browser.log"
            stack.enter_context(running(command, log=log, ready=lambda: port_file.read_text().count("\n") > 0))
            pages = json.load(fetch(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list"))
            target = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
            return Browser(stack.enter_context(connect(target, max_size=None)))

        yield open_page


@pytest.mark.device
def test_viewer_shows_the_screen_in_a_real_browser(qemu_vnc: Path, browse: Callable[[str], Browser]) -> None:
    with serve(UnixNetwork(path=str(qemu_vnc))) as client:
        with NovncAdapter(client=client) as url:
            page = browse(url)
            page.wait_for("document.getElementById('status').innerText == 'Connected to QEMU (testboard)'")
            page.wait_for("document.querySelector('canvas').width >= 640")
            assert page.evaluate("document.title") == "QEMU (testboard) - VNC"
            assert not page.evaluate("document.getElementById('keys').disabled")
        page.wait_for("document.getElementById('status').dataset.state != 'connected'")


@pytest.mark.device
def test_viewer_disconnects_and_connects_again_by_its_button(qemu_vnc: Path, browse: Callable[[str], Browser]) -> None:
    with serve(UnixNetwork(path=str(qemu_vnc))) as client, NovncAdapter(client=client) as url:
        page = browse(url)
        for state in ("connected", "idle", "connected"):
            page.wait_for(f"document.getElementById('status').dataset.state == '{state}'")
            page.evaluate("document.getElementById('connect').click()")
