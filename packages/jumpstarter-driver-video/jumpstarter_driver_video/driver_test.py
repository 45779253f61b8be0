"""Cameras on the network: real ones (µStreamer), odd ones, broken ones, and what a client sees of them."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from PIL import Image

from .client import VideoClient
from .conftest import RawCamera, picture
from .driver import HttpVideo

Start = Callable[[Callable[[bytes], Iterable[bytes]]], RawCamera]
RED = picture("red")


def answer(body: bytes, content_type: str = "image/jpeg", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def stream_of(pictures: Iterable[bytes], gate: threading.Event | None = None) -> Iterator[bytes]:
    """A motion JPEG stream in an odd frame: dashes in the boundary, chunks that end anywhere."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=--odd\r\n"
    yield b"Transfer-Encoding: chunked\r\n\r\n"
    for each in pictures:
        body = b"--odd\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(each), each)
        yield from chunked([body[:5], body[5:50], body[50:]])
    if gate is not None:
        gate.wait(30)
    yield b"0\r\n\r\n"


def endless(gate: threading.Event, colour: str = "red") -> Iterator[bytes]:
    """Pictures at about 50 per second until the gate opens."""
    frame = picture(colour)
    while not gate.wait(0.02):
        yield frame


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def run(client: Any, *arguments: str) -> Any:
    return CliRunner().invoke(client.cli(), list(arguments), catch_exceptions=False)


# -- real servers -----------------------------------------------------------------------------------------------------


@pytest.mark.daemon
def test_picture_comes_from_the_stream_of_ustreamer(ustreamer: Any) -> None:
    with serve(HttpVideo(url=f"{ustreamer.url}/stream")) as client:
        assert client.snapshot().size == (640, 480)
        state = client.state()
        assert (state.online, state.width, state.height) == (True, 640, 480)


@pytest.mark.daemon
def test_picture_comes_from_the_snapshot_address_of_ustreamer(ustreamer: Any) -> None:
    with serve(HttpVideo(url=f"{ustreamer.url}/stream", snapshot_url=f"{ustreamer.url}/snapshot")) as client:
        assert client.snapshot().size == (640, 480)


@pytest.mark.daemon
def test_stream_of_ustreamer_comes_through_the_driver(ustreamer: Any) -> None:
    with serve(HttpVideo(url=f"{ustreamer.url}/stream")) as client, client.stream() as stream:
        stream.send(f"GET {client.stream_path()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"\xff\xd9" not in received:
            received += stream.receive()

    head = received.split(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"boundary=boundarydonotcross" in head


# -- odd cameras ------------------------------------------------------------------------------------------------------


def test_picture_comes_from_an_oddly_framed_stream(raw_camera: Start, gate: threading.Event) -> None:
    camera = raw_camera(lambda _: stream_of([RED], gate))

    with serve(HttpVideo(url=camera.url)) as client:
        assert client.snapshot_bytes() == RED


def test_camera_without_a_stream_gives_still_pictures(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    with serve(HttpVideo(url=camera.url)) as client:
        assert client.snapshot_bytes() == RED
        assert client.state().model_dump() == {"online": True, "width": 64, "height": 48, "fps": 0, "reason": None}


def test_rate_is_measured(raw_camera: Start, gate: threading.Event) -> None:
    camera = raw_camera(lambda _: stream_of(endless(gate)))

    with serve(HttpVideo(url=camera.url)) as client:
        assert 1 < client.state().fps <= 60


def test_camera_that_serves_one_viewer_is_not_asked_again_while_somebody_watches(
    raw_camera: Start, gate: threading.Event
) -> None:
    camera = raw_camera(lambda _: stream_of(endless(gate)))

    with serve(HttpVideo(url=camera.url)) as client, client.stream() as stream:
        stream.send(b"GET /stream HTTP/1.1\r\n\r\n")
        for _ in range(5):
            stream.receive()
        assert client.snapshot_bytes() == RED
        assert client.state().online
        assert camera.connections == 1


def test_picture_larger_than_a_message_arrives_whole(raw_camera: Start) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((3000, 2000), 100).save(buffer, "JPEG", quality=100)
    large = buffer.getvalue()
    assert len(large) > 4 << 20
    camera = raw_camera(lambda _: [answer(large)])

    with serve(HttpVideo(url=camera.url)) as client:
        assert client.snapshot_bytes() == large
        with pytest.raises(DriverError, match="Update the client"):
            client.call("snapshot")


def test_clients_of_published_releases_get_the_picture_in_one_call(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    with serve(HttpVideo(url=camera.url)) as client:
        assert base64.b64decode(client.call("snapshot")) == RED


class OldVideo(HttpVideo):
    """A driver of a published release: no `snapshot_chunks`."""

    snapshot_chunks = None  # type: ignore[assignment]


def test_exporters_of_published_releases_are_asked_in_one_call(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    with serve(OldVideo(url=camera.url)) as client:
        assert client.snapshot_bytes() == RED


# -- logins -----------------------------------------------------------------------------------------------------------


def asks_for_basic(head: bytes) -> Iterable[bytes]:
    expected = base64.b64encode(b"operator:s3cret")
    if b"Authorization: Basic " + expected in head:
        return [answer(RED)]
    return [answer(b"who?", "text/plain", "401 Unauthorized", 'WWW-Authenticate: Basic realm="cam"')]


def asks_for_digest(head: bytes) -> Iterable[bytes]:
    if b"Authorization: Digest " in head and b'username="operator"' in head and b"response=" in head:
        return [answer(RED)]
    challenge = 'WWW-Authenticate: Digest realm="cam", nonce="abc", qop="auth", algorithm=MD5'
    return [answer(b"who?", "text/plain", "401 Unauthorized", challenge)]


@pytest.mark.parametrize("login", [asks_for_basic, asks_for_digest])
def test_login_is_made_in_the_way_that_the_camera_asks_for(raw_camera: Start, login: Any) -> None:
    camera = raw_camera(login)

    with serve(HttpVideo(url=camera.url, username="operator", password="s3cret")) as client:
        assert client.snapshot_bytes() == RED


def test_credentials_may_be_in_the_address_and_never_show(raw_camera: Start) -> None:
    camera = raw_camera(asks_for_basic)
    with serve(HttpVideo(url=camera.url.replace("//", "//operator:s3cret@"))) as client:
        assert client.snapshot_bytes() == RED

    with (
        serve(HttpVideo(url=camera.url.replace("//", "//operator:wrong@") + "/x?token=hidden")) as client,
        pytest.raises(DriverError, match=r"refused these credentials \(status 401\)") as caught,
    ):
        client.snapshot()
    assert "wrong" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_missing_login_is_asked_for(raw_camera: Start) -> None:
    camera = raw_camera(asks_for_basic)

    with (
        serve(HttpVideo(url=camera.url)) as client,
        pytest.raises(DriverError, match="configure username and password"),
    ):
        client.snapshot()


# -- broken cameras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ([answer(b"<html>", "text/html")], "is no JPEG picture and no motion JPEG stream, but text/html"),
        ([answer(b"no", "text/plain", "404 Not Found")], "status 404. Check the path of the address"),
        ([answer(b"no", "text/plain", "503 Busy")], "answered with status 503"),
        ([b"garbage\r\n\r\n"], "can't be read"),
        ([], "can't be read"),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\n\xff\xd8"], "can't be read"),
        (list(stream_of([])), "ended its stream before the first picture"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\n\r\nnot a stream\r\n"],
            "is no motion JPEG stream",
        ),
    ],
)
def test_what_is_wrong_with_a_camera_is_told(raw_camera: Start, response: list[bytes], message: str) -> None:
    camera = raw_camera(lambda _: response)

    with serve(HttpVideo(url=f"{camera.url}/video")) as client:
        with pytest.raises(DriverError) as caught:
            client.snapshot()
        assert message in str(caught.value)
        assert f"{camera.url}/video" in str(caught.value)
        assert client.state().online is False


def test_silent_camera_is_given_up_in_time(raw_camera: Start, gate: threading.Event) -> None:
    def silence(_: bytes) -> Iterator[bytes]:
        gate.wait(60)
        yield b""

    camera = raw_camera(silence)

    with serve(HttpVideo(url=camera.url, timeout=0.3)) as client:
        with pytest.raises(DriverError, match=r"sent nothing for 0.3 s"):
            client.snapshot()
        assert client.state().reason == f"{camera.url} sent nothing for 0.3 s"


def test_camera_that_is_unplugged_and_plugged_in_again_works_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with serve(HttpVideo(url=f"http://127.0.0.1:{port}/")) as client:
        with pytest.raises(DriverError, match=rf"http://127.0.0.1:{port}/ can't be read: Connection refused"):
            client.snapshot()

        def serve_once(server: socket.socket) -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(answer(RED))

        with socket.create_server(("127.0.0.1", port)) as server:
            thread = threading.Thread(target=serve_once, args=[server], daemon=True)
            thread.start()
            assert client.snapshot_bytes() == RED
            thread.join(10)


def test_damaged_picture_is_an_error(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED[:200])])

    with serve(HttpVideo(url=camera.url)) as client, pytest.raises(DriverError, match="damaged picture"):
        client.snapshot()


def test_client_that_leaves_ends_the_connection_to_the_camera(raw_camera: Start, gate: threading.Event) -> None:
    ended = threading.Event()

    def respond(_: bytes) -> Iterator[bytes]:
        try:
            yield from stream_of(endless(gate))
        finally:
            ended.set()

    camera = raw_camera(respond)
    with serve(HttpVideo(url=camera.url)) as client:
        with client.stream() as stream:
            stream.send(b"GET /stream HTTP/1.1\r\n\r\n")
            stream.receive()
        assert ended.wait(30)


# -- what a client may ask over the stream ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /snapshot?x=1 HTTP/1.1", 200),
        (b"HEAD /snapshot HTTP/1.0", 200),
        (b"GET /admin HTTP/1.1", 404),
        (b"GET http://192.0.2.1/ HTTP/1.1", 404),
        (b"POST /snapshot HTTP/1.1", 405),
        (b"hello", 400),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1", 400),
    ],
)
def test_nothing_but_the_pictures_can_be_reached(raw_camera: Start, request_line: bytes, status: int) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    received = ask(HttpVideo(url=camera.url), request_line + b"\r\nHost: x\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 %d " % status)
    if status == 200:
        assert received.split(b"\r\n\r\n", 1)[1] == (RED if request_line.startswith(b"GET") else b"")
    else:
        assert camera.connections == 0


def test_camera_that_has_no_stream_is_told_over_the_stream(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    received = ask(HttpVideo(url=camera.url), b"GET /stream HTTP/1.1\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 502 ")
    assert b"is no live stream, but image/jpeg" in received


def ask(driver: HttpVideo, request: bytes) -> bytes:
    import anyio

    with serve(driver) as client, client.stream() as stream:
        stream.send(request)
        received = b""
        try:
            while True:
                received += stream.receive()
        except anyio.EndOfStream:
            return received


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"url": "rtsp://192.0.2.1/stream"}, "url must be an http or https URL"),
        ({"url": "http://"}, "url must be an http or https URL"),
        ({"url": "http://user:s3cret@host:99999/"}, "url must be an http or https URL"),
        ({"url": 5}, "url must be an http or https URL"),
        ({"url": "http://h/", "snapshot_url": "x"}, "snapshot_url must be"),
        ({"url": "http://h/", "timeout": 0}, "timeout must be above 0"),
        ({"url": "http://h/", "timeout": "soon"}, "timeout must be above 0"),
        ({"url": "http://h/", "password": "x"}, "a password needs a username"),
        ({"url": "https://h/", "ca_file": "/nowhere.pem"}, "ca_file /nowhere.pem can't be used"),
    ],
)
def test_bad_configuration_is_refused_before_anything_is_touched(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        HttpVideo(**config)
    assert "s3cret" not in str(caught.value)


def test_example_of_the_readme_loads(tmp_path: Path) -> None:
    import re

    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    readme = Path(__file__).parent.parent / "README.md"
    example = re.search(r"```yaml\n(apiVersion.*?)```", readme.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "exporter.yaml"
    path.write_text(example[1])

    root = ExporterConfigV1Alpha1.load_path(path).instantiate()

    assert all(isinstance(child, HttpVideo) for child in root.children.values())
    assert root.children


def test_password_of_digits_in_yaml_is_text(raw_camera: Start) -> None:
    text = "type: jumpstarter_driver_video.driver.HttpVideo\nconfig: {url: 'http://h/', username: 1, password: 23}"
    driver = ExporterConfigV1Alpha1DriverInstance.from_str(text).instantiate()
    assert isinstance(driver, HttpVideo)
    assert "23" not in repr(driver)


# -- commands ---------------------------------------------------------------------------------------------------------


def test_state_command_prints_for_people_and_for_scripts(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    with serve(HttpVideo(url=camera.url)) as client:
        assert run(client, "state").output == "online\nresolution: 64x48\n"
        assert json.loads(run(client, "state", "--json").output)["width"] == 64


def test_snapshot_command_writes_the_file_and_says_where(raw_camera: Start, tmp_path: Path) -> None:
    camera = raw_camera(lambda _: [answer(RED)])
    path = tmp_path / "here.jpg"

    with serve(HttpVideo(url=camera.url)) as client:
        assert run(client, "snapshot", "-o", str(path)).output == f"{path}\n"
        assert path.read_bytes() == RED
        assert run(client, "snapshot", "-o", "-").stdout_bytes == RED


def test_failed_snapshot_leaves_the_old_file_alone(raw_camera: Start, tmp_path: Path) -> None:
    camera = raw_camera(lambda _: [])
    path = tmp_path / "here.jpg"
    path.write_bytes(b"old")

    with serve(HttpVideo(url=camera.url)) as client, pytest.raises(DriverError):
        run(client, "snapshot", "-o", str(path))

    assert path.read_bytes() == b"old"


def test_stream_command_on_a_busy_port_says_so(raw_camera: Start) -> None:
    camera = raw_camera(lambda _: [answer(RED)])

    with socket.create_server(("127.0.0.1", 0)) as busy, serve(HttpVideo(url=camera.url)) as client:
        port = str(busy.getsockname()[1])
        result = run(client, "stream", "--no-browser", "-p", port)

    assert result.exit_code == 1
    assert f"can't listen on 127.0.0.1 port {port}: Address already in use" in result.output


def test_client_module_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = {"PIL", "aiohttp", "anyio", "pydantic", "grpc"}
    code = f"import sys, {VideoClient.__module__}; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
