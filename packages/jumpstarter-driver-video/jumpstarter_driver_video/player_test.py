"""The page with the live picture: what it serves, whom it refuses, and what a real browser shows."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.common.utils import serve
from PIL import Image

from .conftest import picture
from .driver import HttpVideo
from .driver_test import Start, answer, endless, stream_of

RED = picture("red")


@pytest.fixture
def url(raw_camera: Start) -> Iterator[str]:
    """The page of a camera that shows red."""
    stop = threading.Event()
    camera = raw_camera(lambda _: stream_of(endless(stop)))
    with serve(HttpVideo(url=camera.url)) as client, client.player() as found:
        yield found
    stop.set()


def fetch(url: str, **headers: str) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20)


def test_page_and_its_files_are_served(url: str) -> None:
    page = fetch(url)
    text = page.read().decode()

    assert url.startswith("http://127.0.0.1:")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for name in ("player.js", "player.css"):
        assert name in text
        assert fetch(url + name).read()


def test_picture_state_and_stream_are_served(url: str) -> None:
    assert fetch(url + "snapshot").read() == RED
    assert json.load(fetch(url + "state"))["online"] is True
    with fetch(url + "stream") as stream:
        assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        received = b""
        while received.count(RED) < 3:
            received += stream.read1()


@pytest.mark.parametrize("path", ["player.py", "..%2fclient.py", "web/player.html", "%00"])
def test_nothing_else_is_served(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url + path)

    assert caught.value.code in (400, 404)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
@pytest.mark.parametrize("path", ["", "stream", "snapshot", "state"])
def test_foreign_pages_are_refused(url: str, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url + path, **headers)

    assert caught.value.code == 403


@pytest.mark.parametrize("path", ["stream", "snapshot"])
def test_error_of_the_camera_is_the_text_of_the_answer(raw_camera: Start, path: str) -> None:
    camera = raw_camera(lambda _: [answer(b"", "text/plain", "404 Not Found")])
    with (
        serve(HttpVideo(url=camera.url)) as client,
        client.player() as url,
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        fetch(url + path)

    assert caught.value.code == 502
    assert "answered with status 404" in caught.value.read().decode()


def red_share(path: Path) -> float:
    """How much of a picture is red, 0 to 1."""
    image = Image.open(path).convert("RGB")
    pixels = list(image.get_flattened_data() if hasattr(image, "get_flattened_data") else image.getdata())
    return sum(red > 200 and green < 60 and blue < 60 for red, green, blue in pixels) / len(pixels)


@pytest.mark.device
def test_live_picture_moves_in_a_real_browser(raw_camera: Start, browse: Callable[[str], Any], tmp_path: Path) -> None:
    """First red, then blue: the second colour can only have come by the stream."""
    turn, stop = threading.Event(), threading.Event()

    def pictures() -> Iterator[bytes]:
        while not stop.wait(0.02):
            yield picture("blue" if turn.is_set() else "red", (320, 240))

    camera = raw_camera(lambda _: stream_of(pictures()))
    colour = """(() => {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 1;
        const context = canvas.getContext("2d");
        context.drawImage(document.getElementById("picture"), 0, 0, 1, 1);
        return Array.from(context.getImageData(0, 0, 1, 1).data).slice(0, 3);
    })()"""
    with serve(HttpVideo(url=camera.url)) as client, client.player() as url:
        page = browse(url)
        page.wait_for("document.getElementById('picture').naturalWidth === 320")
        page.wait_for("document.getElementById('status').dataset.state === 'live'")
        page.wait_for(f"{colour}[0] > 200")
        assert red_share(page.screenshot(tmp_path / "red.png")) > 0.3
        turn.set()
        page.wait_for(f"{colour}[2] > 200")
        assert red_share(page.screenshot(tmp_path / "blue.png")) < 0.01
        stop.set()


@pytest.mark.device
def test_page_says_what_is_wrong_and_goes_on_when_the_camera_is_back(
    raw_camera: Start, browse: Callable[[str], Any]
) -> None:
    back, stop = threading.Event(), threading.Event()

    def respond(_: bytes) -> Iterator[bytes]:
        return stream_of(endless(stop)) if back.is_set() else iter([answer(b"", "text/plain", "503 Busy")])

    camera = raw_camera(respond)
    with serve(HttpVideo(url=camera.url)) as client, client.player() as url:
        page = browse(url)
        page.wait_for("document.getElementById('status').textContent.includes('answered with status 503')")
        back.set()
        page.wait_for("document.getElementById('status').dataset.state === 'live'")
        page.wait_for("document.getElementById('picture').naturalWidth === 64")
        stop.set()
