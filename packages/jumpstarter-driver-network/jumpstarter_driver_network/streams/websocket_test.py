"""WebSocket ends: the driver against a real server, and the server's stream against a real client."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import websockets
from anyio import BrokenResourceError
from jumpstarter.client.core import DriverError
from jumpstarter.common import TemporaryTcpListener
from jumpstarter.common.utils import serve
from jumpstarter.streams.common import create_memory_stream, forward_stream
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from jumpstarter_driver_network.driver import WebsocketNetwork
from jumpstarter_driver_network.streams import WebsocketServerStream


@contextmanager
def running(handler: Callable[[ServerConnection], None], **options: Any) -> Iterator[int]:
    """Run a WebSocket server with a thread per connection; its port."""
    with serve_websocket(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join(10)


def echo(conn: ServerConnection) -> None:
    for message in conn:
        conn.send(message)


def test_binary_messages_pass_in_both_directions() -> None:
    with running(echo) as port, serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")) as client:
        assert client.address() == f"ws://127.0.0.1:{port}"
        with client.stream() as stream:
            stream.send(b"\x00\xffhello")
            assert stream.receive() == b"\x00\xffhello"


def test_text_from_the_server_arrives_as_utf8() -> None:
    with (
        running(lambda conn: conn.send("grün")) as port,
        serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")) as client,
        client.stream() as stream,
    ):
        assert stream.receive() == "grün".encode()


def test_normal_close_of_the_server_is_the_end_of_the_stream() -> None:
    with (
        running(lambda conn: conn.close(1000)) as port,
        serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")) as client,
        client.stream() as stream,
        pytest.raises(anyio.EndOfStream),
    ):
        stream.receive()


def test_abnormal_close_is_logged_where_the_client_sees_it(caplog: pytest.LogCaptureFixture) -> None:
    with (
        running(lambda conn: conn.close(4001, "board unplugged")) as port,
        serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")) as client,
        client.stream() as stream,
        pytest.raises((anyio.EndOfStream, BrokenResourceError)),
    ):
        stream.receive()

    assert any("4001" in text and "board unplugged" in text for text in caplog.messages)


async def test_abnormal_close_tells_code_and_reason() -> None:
    with running(lambda conn: conn.close(4001, "board unplugged")) as port:
        async with WebsocketNetwork(url=f"ws://127.0.0.1:{port}").connect() as stream:
            with pytest.raises(BrokenResourceError, match=r"4001.*board unplugged"):
                await stream.receive()
            with pytest.raises(BrokenResourceError, match="4001"):
                await stream.send(b"x")


def test_headers_and_subprotocols_are_sent() -> None:
    seen: dict[str, Any] = {}

    def note(conn: ServerConnection) -> None:
        assert conn.request is not None
        seen.update(authorization=conn.request.headers.get("Authorization"), chosen=conn.subprotocol)
        conn.send(b"noted")

    with running(note, subprotocols=["console"]) as port:
        driver = WebsocketNetwork(
            url=f"ws://127.0.0.1:{port}", headers={"Authorization": "Bearer x"}, subprotocols=["other", "console"]
        )
        with serve(driver) as client, client.stream() as stream:
            assert stream.receive() == b"noted"

    assert seen == {"authorization": "Bearer x", "chosen": "console"}


async def test_size_of_messages_is_limited_and_the_limit_can_be_raised() -> None:
    big = b"x" * (3 << 20)
    with running(lambda conn: (conn.send(big), conn.close())[1]) as port:
        url = f"ws://127.0.0.1:{port}"
        async with WebsocketNetwork(url=url).connect() as stream:
            with pytest.raises(BrokenResourceError, match="1009"):
                await stream.receive()
        async with WebsocketNetwork(url=url, max_message_size=4 << 20).connect() as stream:
            assert await stream.receive() == big


def test_url_alone_is_what_the_library_gets_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    async def refusing(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise OSError("not today")

    monkeypatch.setattr(websockets, "connect", refusing)
    with (
        serve(WebsocketNetwork(url="ws://board.example/console")) as client,
        pytest.raises(DriverError, match=r"can't connect to WebSocket ws://board\.example/console: not today"),
        client.stream(),
    ):
        pass

    assert calls == [(("ws://board.example/console",), {})]


def test_server_that_is_no_websocket_is_an_error_on_opening(tcp_target: Callable[..., int]) -> None:
    port = tcp_target(lambda conn: (conn.recv(1000), conn.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n"))[1])
    with (
        serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")) as client,
        pytest.raises(DriverError, match=r"can't connect to WebSocket .*404"),
        client.stream(),
    ):
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A fresh self-signed certificate for 127.0.0.1, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return cert, key


def test_certificates_are_checked_unless_told_otherwise(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with running(echo, ssl=context) as port:
        url = f"wss://127.0.0.1:{port}"
        with (
            serve(WebsocketNetwork(url=url)) as client,
            pytest.raises(DriverError, match="CERTIFICATE_VERIFY_FAILED"),
            client.stream(),
        ):
            pass
        for options in ({"ca_file": str(cert)}, {"insecure_tls": True}):
            with serve(WebsocketNetwork(url=url, **options)) as client, client.stream() as stream:
                stream.send(b"hello")
                assert stream.receive() == b"hello"


async def handshaken(target: Any, conn: Any) -> None:
    """Serve one raw connection as a WebSocket on top of `target`."""
    async with forward_stream(conn, WebsocketServerStream(stream=target)):
        pass


@asynccontextmanager
async def listening() -> AsyncGenerator[tuple[str, Any], None]:
    """A WebSocket server made of the stream; its URL, and the far end of the stream that it serves."""
    near, far = create_memory_stream()
    async with TemporaryTcpListener(partial(handshaken, near)) as address:
        yield f"ws://{address[0]}:{address[1]}", far


async def test_server_stream_carries_messages_both_ways() -> None:
    async with listening() as (url, far), websockets.connect(url) as client:
        with anyio.fail_after(10):
            await client.send(b"one")
            assert await far.receive() == b"one"
            await client.send("two")
            assert await far.receive() == b"two"
            await far.send(b"three")
            assert await client.recv() == b"three"
            await far.send(b"x" * 200000)
            received = 0
            while received < 200000:
                received += len(await client.recv())


async def test_server_stream_answers_a_ping_while_the_other_side_is_silent() -> None:
    async with listening() as (url, _), websockets.connect(url) as client:
        with anyio.fail_after(10):
            await (await client.ping())


async def test_server_stream_waits_for_the_handshake_when_the_other_side_speaks_first() -> None:
    async with listening() as (url, far):
        await far.send(b"RFB 003.008\n")
        async with websockets.connect(url) as client:
            with anyio.fail_after(10):
                assert await client.recv() == b"RFB 003.008\n"


async def test_server_stream_chooses_the_subprotocol_of_viewers() -> None:
    async with (
        listening() as (url, _),
        websockets.connect(url, subprotocols=["base64", "binary"]) as client,  # type: ignore[list-item]
    ):
        assert client.subprotocol == "binary"


async def test_close_of_the_client_ends_the_other_side_and_nothing_is_written_there() -> None:
    async with listening() as (url, far):
        async with websockets.connect(url) as client:
            await client.close(1000)
        with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
            await far.receive()


async def test_end_of_the_other_side_closes_the_websocket() -> None:
    async with listening() as (url, far), websockets.connect(url) as client:
        await far.send_eof()
        with anyio.fail_after(10):
            await client.wait_closed()
        assert client.close_code == 1000


async def test_peer_that_speaks_no_websocket_is_hung_up_on() -> None:
    async with listening() as (url, _):
        host, port = url.removeprefix("ws://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as raw:
            await raw.send(b"SSH-2.0-OpenSSH\r\n\r\n")
            with anyio.fail_after(10):
                answer = b"".join([chunk async for chunk in raw])
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_stack_of_messages_keeps_its_order() -> None:
    with ExitStack() as stack:
        port = stack.enter_context(running(echo))
        client = stack.enter_context(serve(WebsocketNetwork(url=f"ws://127.0.0.1:{port}")))
        stream = stack.enter_context(client.stream())
        for number in range(200):
            stream.send(b"%d" % number)
        assert [stream.receive() for _ in range(200)] == [b"%d" % number for number in range(200)]
