"""Reading HTTP responses of a real server as byte streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from anyio import BrokenResourceError, EndOfStream, fail_after

from jumpstarter.streams.aiohttp import AiohttpStreamReaderStream

BODY = b"0123456789" * 100_000


@pytest.fixture
async def response() -> AsyncIterator[aiohttp.ClientResponse]:
    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=BODY)

    app = web.Application()
    app.router.add_get("/", whole)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/") as response:
            yield response
    finally:
        await runner.cleanup()


async def test_the_body_arrives_and_ends(response: aiohttp.ClientResponse) -> None:
    stream = AiohttpStreamReaderStream(reader=response.content)
    with fail_after(10):
        async with stream:
            assert b"".join([chunk async for chunk in stream]) == BODY
            with pytest.raises(EndOfStream):
                await stream.receive()


async def test_nothing_can_be_sent(response: aiohttp.ClientResponse) -> None:
    stream = AiohttpStreamReaderStream(reader=response.content)
    with pytest.raises(BrokenResourceError):
        await stream.send(b"x")
    await stream.send_eof()


async def test_a_lost_connection_breaks_the_stream(response: aiohttp.ClientResponse) -> None:
    stream = AiohttpStreamReaderStream(reader=response.content)
    response.content.set_exception(aiohttp.ClientPayloadError("lost"))
    with pytest.raises(BrokenResourceError) as caught:
        await stream.receive()
    assert isinstance(caught.value.__cause__, aiohttp.ClientPayloadError)
