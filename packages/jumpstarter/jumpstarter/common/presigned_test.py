"""Transfers that an exporter makes for a client, against a real HTTP server."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web
from anyio import BrokenResourceError, EndOfStream, fail_after
from jumpstarter_testbench.daemons import S3Server

from jumpstarter.common import presigned
from jumpstarter.common.presigned import presigned_stream, redacted
from jumpstarter.common.resources import PresignedRequestResource
from jumpstarter.streams.progress import ProgressAttribute

BODY = random.Random(1).randbytes(3_000_000)
SECRET = "X-Amz-Signature=s3cr3t"


class Server:
    """A file server on a free port: `/file` in both directions, and pages that misbehave."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""
        self.pages: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if page := self.pages.get(request.path):
            return await page(request)
        if request.path != "/file":
            raise web.HTTPNotFound
        if request.method == "PUT":
            self.bodies.append(await request.read())
            return web.Response(status=201)
        return web.Response(body=BODY)

    def redirect(self, path: str, location: str | None, status: int = 302) -> str:
        """Make `path` redirect to `location`; return its URL."""

        async def page(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=status, headers={} if location is None else {"Location": location})

        self.pages[path] = page
        return f"{self.url}{path}?{SECRET}"


@asynccontextmanager
async def running() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = "http://{}:{}".format(*runner.addresses[0])
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running() as server:
        yield server


def get(url: str, **headers: str) -> PresignedRequestResource:
    return PresignedRequestResource(headers=headers, url=url, method="GET")


def put(url: str, **headers: str) -> PresignedRequestResource:
    return PresignedRequestResource(headers=headers, url=url, method="PUT")


async def download(resource: PresignedRequestResource, timeout: float = 10) -> bytes:
    with fail_after(20):
        async with presigned_stream(resource, timeout) as stream:
            return b"".join([chunk async for chunk in stream])


async def upload(resource: PresignedRequestResource, *chunks: bytes, timeout: float = 10) -> None:
    with fail_after(20):
        async with presigned_stream(resource, timeout) as stream:
            for chunk in chunks:
                await stream.send(chunk)


async def test_a_get_yields_the_body_and_its_length(server: Server) -> None:
    async with presigned_stream(get(f"{server.url}/file"), 10) as stream:
        assert stream.extra(ProgressAttribute.total) == len(BODY)
        assert b"".join([chunk async for chunk in stream]) == BODY
        with pytest.raises(BrokenResourceError):
            await stream.send(b"x")


async def test_a_get_may_be_left_early(server: Server) -> None:
    with fail_after(5):
        async with presigned_stream(get(f"{server.url}/file"), 10) as stream:
            assert BODY.startswith(await stream.receive())


async def test_headers_of_the_client_are_sent(server: Server) -> None:
    assert await download(get(f"{server.url}/file", **{"X-Custom": "value"})) == BODY
    assert server.requests[0].headers["X-Custom"] == "value"
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_percent_encoding_of_the_url_is_left_alone(server: Server) -> None:
    path = "/file?X-Amz-Credential=key%2F2026&name=a%20b+c"
    assert await download(get(server.url + path)) == BODY
    assert server.requests[0].raw_path == path


@pytest.mark.parametrize("headers", [{}, {"Content-Length": str(len(BODY))}, {"Transfer-Encoding": "chunked"}])
async def test_a_put_delivers_the_bytes(server: Server, headers: dict[str, str]) -> None:
    await upload(put(f"{server.url}/file", **headers), BODY[:1000], BODY[1000:])
    assert server.bodies == [BODY]
    chunked = "Transfer-Encoding" in headers
    assert server.requests[0].headers.get("Content-Length") == (None if chunked else str(len(BODY)))


async def test_a_put_of_nothing_is_an_empty_file(server: Server) -> None:
    await upload(put(f"{server.url}/file"))
    assert server.bodies == [b""]


async def test_a_large_put_goes_through_a_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presigned, "MEMORY_LIMIT", 100_000)
    await upload(put(f"{server.url}/file"), *[BODY[i : i + 30_000] for i in range(0, len(BODY), 30_000)])
    assert server.bodies == [BODY]


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "6"}, {"Transfer-Encoding": "chunked"}])
async def test_an_error_in_the_context_abandons_a_put(server: Server, headers: dict[str, str]) -> None:
    async def dump() -> None:
        async with presigned_stream(put(f"{server.url}/file", **headers), 10) as stream:
            await stream.send(b"abc")
            raise KeyError("device")

    with fail_after(5), pytest.raises(KeyError, match="device"):
        await dump()
    assert server.bodies == []


async def test_a_put_that_is_shorter_than_announced_is_an_error(server: Server) -> None:
    with pytest.raises(RuntimeError, match="sent 3 bytes, but its Content-Length is 10"):
        await upload(put(f"{server.url}/file", **{"Content-Length": "10"}), b"abc")
    assert server.bodies == []


async def test_nothing_is_received_of_a_put(server: Server) -> None:
    async with presigned_stream(put(f"{server.url}/file"), 10) as stream:
        with pytest.raises(EndOfStream):
            await stream.receive()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_get_follows_redirects(server: Server, status: int) -> None:
    assert await download(get(server.redirect("/old", "/file", status))) == BODY


@pytest.mark.parametrize("location", ["file", "/file", "./file", "//{host}/file", "{url}/file"])
async def test_a_relative_location_is_resolved(server: Server, location: str) -> None:
    location = location.format(host=server.url.removeprefix("http://"), url=server.url)
    assert await download(get(server.redirect("/old", location))) == BODY


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_put_is_repeated_after_a_redirect(server: Server, status: int) -> None:
    await upload(put(server.redirect("/old", "/file", status)), BODY)
    assert server.bodies == [BODY]


async def test_a_put_is_done_when_its_result_is_elsewhere(server: Server) -> None:
    await upload(put(server.redirect("/old", "/file", 303)), BODY)
    assert [request.method for request in server.requests] == ["PUT", "GET"]


async def test_a_put_that_was_streamed_is_not_repeated(server: Server) -> None:
    url = server.redirect("/old", "/file", 307)
    with pytest.raises(RuntimeError, match="after the body was sent"):
        await upload(put(url, **{"Content-Length": "3"}), b"abc")


async def test_a_redirect_without_location_is_an_error(server: Server) -> None:
    with pytest.raises(RuntimeError, match="302 without saying where to go"):
        await download(get(server.redirect("/old", None)))


async def test_redirects_in_a_circle_end(server: Server) -> None:
    with pytest.raises(RuntimeError, match="more than 10 redirects"):
        await download(get(server.redirect("/loop", "/loop")))
    assert len(server.requests) == 11


SECRET_HEADERS = {
    "Authorization": "Bearer token",
    "authorization-extra": "x",
    "COOKIE": "a=b",
    "Proxy-Authorization": "x",
    "X-Amz-Security-Token": "x",
    "x-ms-blob-type": "x",
    "X-Goog-Meta": "x",
}


async def test_secret_headers_stay_with_their_origin(server: Server) -> None:
    headers = {**SECRET_HEADERS, "X-Harmless": "stays"}
    async with running() as other:
        url = server.redirect("/old", f"{server.url}/older")
        server.redirect("/older", f"{other.url}/file?next")
        assert await download(get(url, **headers)) == BODY
        for request in server.requests:
            assert {name: request.headers.get(name) for name in headers} == headers
        (arrived,) = other.requests
        assert arrived.headers["X-Harmless"] == "stays"
        assert not {name.lower() for name in SECRET_HEADERS} & {name.lower() for name in arrived.headers}


@pytest.mark.parametrize("make", [get, put])
@pytest.mark.parametrize("status", [400, 403, 404, 500])
async def test_a_bad_status_is_an_error_without_secrets(
    server: Server, make: Callable[..., PresignedRequestResource], status: int
) -> None:
    url = server.redirect("/bad", None, status)
    resource = make(url)
    with pytest.raises(RuntimeError) as caught:
        await (download(resource) if resource.method == "GET" else upload(resource, b"x"))
    assert str(caught.value).startswith(
        f"{resource.method} {server.url}/bad?<redacted> failed: the server answered {status} "
    )
    assert "s3cr3t" not in repr(caught.value) + repr(caught.value.__cause__)


async def test_a_refused_stream_tells_why_to_a_driver_that_still_sends(server: Server) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=403)

    server.pages["/bad"] = refuse
    with pytest.raises(RuntimeError, match="answered 403"):
        await upload(put(f"{server.url}/bad", **{"Content-Length": str(100 << 20)}), *[bytes(1 << 20)] * 100)


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(RuntimeError, match=rf"GET http://127.0.0.1:{port}/x failed: can't connect: Connection refused"):
        await download(get(f"http://127.0.0.1:{port}/x"))


async def test_a_host_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="can't connect: "):
        await download(get("http://does-not-exist.invalid/x"))


async def test_a_body_that_breaks_off_is_an_error(server: Server) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        request.transport.close()
        return response

    server.pages["/broken"] = broken
    with pytest.raises(RuntimeError, match="lost before the whole body arrived"):
        await download(get(f"{server.url}/broken?{SECRET}"))


async def test_the_timeout_is_for_the_whole_transfer(server: Server) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x")
        await anyio.sleep_forever()
        return response

    server.pages["/endless"] = endless
    with pytest.raises(TimeoutError, match=r"GET .*/endless\?<redacted>: not finished after 0.3 s"):
        await download(get(f"{server.url}/endless?{SECRET}"), timeout=0.3)


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "http://", "not a url", "http://h:99999/"])
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(RuntimeError, match="not an http or https URL"):
        await download(get(url))


async def test_a_redirect_to_another_scheme_is_refused(server: Server) -> None:
    with pytest.raises(RuntimeError, match="not an http or https URL"):
        await download(get(server.redirect("/old", "file:///etc/passwd")))


async def test_headers_can_not_smuggle_others(server: Server) -> None:
    with pytest.raises(RuntimeError, match=r"GET .* failed"):
        await download(get(f"{server.url}/file", **{"X-A": "b\r\nX-C: d"}))
    assert not server.requests


def presign(server: S3Server, operation: str, bucket: str, key: str) -> str:
    """The URL that a user gets from Amazon's own tools."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    return str(client.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key}))


async def test_an_object_of_s3_is_written_and_read_back(s3: S3Server) -> None:
    s3.create_bucket("images")
    await upload(put(presign(s3, "put_object", "images", "disk one.img")), BODY[:1000], BODY[1000:])
    assert await download(get(presign(s3, "get_object", "images", "disk one.img"))) == BODY


async def test_a_missing_object_of_s3_is_an_error(s3: S3Server) -> None:
    s3.create_bucket("images")
    with pytest.raises(RuntimeError, match=r"GET http://.*/images/absent\?<redacted> failed: .* 404") as caught:
        await download(get(presign(s3, "get_object", "images", "absent")))
    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"])
async def test_link_local_addresses_are_refused(server: Server, host: str) -> None:
    with pytest.raises(RuntimeError, match="link-local"):
        await download(get(f"http://{host}/latest/meta-data"))
    with pytest.raises(RuntimeError, match="link-local"):
        await download(get(server.redirect("/old", f"http://{host}/latest/meta-data")))


async def test_a_name_of_a_link_local_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    with pytest.raises(RuntimeError, match=r"can't connect: address 169.254.169.254 is link-local"):
        await download(get("http://harmless.example/latest/meta-data"))


async def test_hosts_can_be_limited(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_PRESIGNED_HOSTS", "*.example.com, 127.0.0.*")
    assert await download(get(f"{server.url}/file")) == BODY
    monkeypatch.setenv("JMP_PRESIGNED_HOSTS", "*.example.com")
    with pytest.raises(RuntimeError, match=r"host 127.0.0.1 is not among those that JMP_PRESIGNED_HOSTS"):
        await download(get(f"{server.url}/file"))


async def test_a_policy_sees_every_host(server: Server) -> None:
    seen = []
    url = server.redirect("/old", f"http://localhost:{server.url.rpartition(':')[2]}/file")
    async with presigned_stream(get(url), 10, policy=seen.append) as stream:
        assert b"".join([chunk async for chunk in stream]) == BODY
    assert seen == ["127.0.0.1", "localhost"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a%20b?X=1&Y=2#f", "https://host/a%20b?<redacted>"),
        ("https://user:pass@host:8443/a", "https://host:8443/a"),
        ("http://[", "<invalid URL>"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
