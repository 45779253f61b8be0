"""Whatever comes over the wire, the server answers or closes, in time, and serves the others."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jumpstarter_protocol import client_pb2

from jumpstarter_controller.errors import Refused
from jumpstarter_controller.testing import Login
from jumpstarter_controller.web.conftest import Web, serving
from jumpstarter_controller.web.connections import Limits
from jumpstarter_controller.web.transcoding import bindings

HOME = "/v1/namespaces/default"
BINDINGS = {found.method.name: found for found in bindings(client_pb2.DESCRIPTOR.services_by_name["ClientService"])}
NAMES = sorted({field.json_name for field in client_pb2.Lease.DESCRIPTOR.fields})

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["60s", "-1s", "1e9s", "9999999999999s", "2026-01-01T00:00:00Z", "0000-00-00T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(
    rpc=st.sampled_from(["CreateLease", "UpdateLease", "RotateToken"]),
    body=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=4) | VALUES,
    query=st.lists(st.tuples(st.sampled_from(["leaseId", "updateMask", "lease_id"]) | st.text(max_size=6), st.text())),
    path=st.text(max_size=30),
)
def test_any_request_becomes_a_message_or_a_refusal(rpc: str, body: Any, query: Any, path: str) -> None:
    text = json.dumps(body).encode()
    refusal = refused(rpc, path, query, text)
    if refusal is not None:
        assert refusal.reason == "INVALID_REQUEST"
        assert len(refusal.message) < 600
        assert refusal.message.isprintable()


def refused(rpc: str, path: str, query: Any, body: bytes) -> Refused | None:
    """Return why a request is refused; None when it becomes a message that can be sent."""
    try:
        BINDINGS[rpc].request({"v0": path}, query, body).SerializeToString()
    except Refused as error:
        return error
    return None


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200))
def test_any_bytes_become_a_message_or_a_refusal(body: bytes) -> None:
    refusal = refused("CreateLease", "namespaces/default", [], body)
    assert refusal is None or refusal.reason == "INVALID_REQUEST"


@asynccontextmanager
async def raw(web: Web) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the server, with TLS and nothing more."""
    host, port = web.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=web.context)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


MALFORMED = [
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00\x01\x02\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(500)) + b"\r\n",
    b"POST /login HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /login HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /login HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
    b"POST /login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", MALFORMED, ids=lambda value: repr(value[:24]))
async def test_malformed_requests_get_an_answer_or_an_end(web: Web, request_bytes: bytes) -> None:
    async with raw(web) as (reader, writer):
        writer.write(request_bytes)
        with anyio.fail_after(30):
            try:
                line = await reader.readline()
            except ConnectionError:
                line = b""
        assert line == b"" or line.split()[1][:1] in (b"2", b"3", b"4")
    assert (await web.ask("GET", "/healthz")).text == "ok"


async def test_random_bytes_hurt_nobody(web: Web) -> None:
    chance = random.Random(7)
    for _ in range(60):
        async with raw(web) as (reader, writer):
            writer.write(chance.randbytes(chance.randrange(1, 4000)) + b"\r\n\r\n")
            if writer.can_write_eof():
                writer.write_eof()
            with anyio.move_on_after(0.02):
                await reader.read(100)
    assert (await web.ask("GET", "/healthz")).text == "ok"


async def test_random_paths_and_headers_get_answers_of_the_client_s_fault(web: Web, alice: Login) -> None:
    chance = random.Random(11)
    letters = string.ascii_letters + string.digits + "/%._~-*{}=&?:+"
    for _ in range(150):
        path = "".join(chance.choice(letters) for _ in range(chance.randrange(40)))
        verb = chance.choice(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"])
        answer = await web.ask(verb, f"{chance.choice(['/', HOME + '/', '/v1/', '/dashboard/'])}{path}", alice)
        assert answer.status < 500, (verb, path, answer.text)


# -- those who hold on -----------------------------------------------------------------------------

SHORT = Limits(handshake=0.5, idle=0.5, request=1.0, connections=8, per_address=4)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers that are made from now on wait for nobody."""
    monkeypatch.setattr("jumpstarter_controller.web.connections.Limits", lambda: SHORT)


@pytest.mark.usefixtures("impatient")
class TestThoseWhoHoldOn:
    """The limits of the connections, all shortened."""

    @pytest.fixture
    async def web(self, impatient: None, tmp_path: Path) -> AsyncIterator[Web]:
        """A lab that waits for nobody."""
        async with serving(tmp_path) as web:
            yield web

    async def closed(self, reader: asyncio.StreamReader) -> bytes:
        """Return what comes until the end, which has to come."""
        with anyio.fail_after(10):
            try:
                return await reader.read()
            except ConnectionError:
                return b""

    async def test_who_says_nothing_is_sent_away(self, web: Web) -> None:
        async with raw(web) as (reader, _):
            assert await self.closed(reader) == b""

    async def test_who_sends_headers_byte_by_byte_is_sent_away(self, web: Web) -> None:
        async with raw(web) as (reader, writer), anyio.create_task_group() as tasks:

            async def drip() -> None:
                for byte in b"GET / HTTP/1.1\r\nHost: lab\r\n" + b"X: y\r\n" * 1000:
                    writer.write(bytes([byte]))
                    await anyio.sleep(0.05)

            tasks.start_soon(drip)
            assert await self.closed(reader) == b""
            tasks.cancel_scope.cancel()

    async def test_who_sends_a_body_byte_by_byte_is_sent_away(self, web: Web) -> None:
        async with raw(web) as (reader, writer), anyio.create_task_group() as tasks:
            writer.write(b"POST /login HTTP/1.1\r\nHost: lab\r\nContent-Length: 100000\r\n\r\n")

            async def drip() -> None:
                while True:
                    writer.write(b"x")
                    await anyio.sleep(0.05)

            tasks.start_soon(drip)
            await self.closed(reader)
            tasks.cancel_scope.cancel()

    async def test_who_takes_no_answer_is_sent_away(self, web: Web) -> None:
        host, port = web.url.removeprefix("https://").split(":")
        request = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"

        def send() -> None:
            with socket.create_connection((host, int(port)), timeout=10) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                with web.context.wrap_socket(plain, server_hostname=host) as taken:
                    while True:
                        taken.sendall(request * 100)

        with anyio.fail_after(30), pytest.raises(OSError, match=r"reset|roken|EOF|closed|wrong"):
            await anyio.to_thread.run_sync(send)

    async def test_who_does_not_finish_the_handshake_is_sent_away(self, web: Web) -> None:
        host, port = web.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await self.closed(reader) == b""
        writer.close()

    async def test_one_address_gets_so_many_connections_and_no_more(self, web: Web) -> None:
        host, port = web.url.removeprefix("https://").split(":")
        held = [await asyncio.open_connection(host, int(port), ssl=web.context) for _ in range(SHORT.per_address)]
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.open_connection(host, int(port), ssl=web.context)
        for reader, writer in held:
            await self.closed(reader)
            writer.close()
        with anyio.fail_after(10):
            assert (await web.ask("GET", "/healthz")).text == "ok"


def test_limits_are_meant_for_people_and_their_programs() -> None:
    assert Limits().request >= 30
    assert Limits().idle >= 15
