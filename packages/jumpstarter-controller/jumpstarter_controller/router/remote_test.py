"""A router on another machine joins its controller, serves its streams, and outlives the controller's absence."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tls import TLSConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter_protocol import lab_pb2_grpc

from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.certificates import Files, ServerCertificates
from jumpstarter_controller.identity.keys import StreamKeys
from jumpstarter_controller.identity.streams import StreamTokens
from jumpstarter_controller.lab import Actor
from jumpstarter_controller.model.records import Exporter, Key, Kind, Meta

from . import remote
from .conftest import KEY, PATIENCE, Certificate, Running, until
from .joining import addresses_of
from .pool import RouterPool
from .relay import END_KEY
from .remote import Pauses, RemoteRouter, RemoteSettings

BOARD = Exporter(meta=Meta(namespace="lab", name="board"))


class Controller(lab_pb2_grpc.LabServiceServicer):
    """The one rpc of a controller that routers call, on a pool; can go away and come back on the same port."""

    def __init__(self, certificate: Certificate) -> None:
        self.keys = StreamKeys([KEY])
        self.pool = RouterPool(self.keys)
        self.port = 0
        self.callers: list[dict[str, Any]] = []
        self._certificate = certificate
        self._server: grpc.aio.Server | None = None

    async def ServeRouter(self, requests: AsyncIterator[Any], context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.callers.append(metadata)
        if metadata["authorization"] != "Bearer secret":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is expired")
        actor = Actor(kind="router", key=Key(Kind.ROUTER, "lab", metadata["jumpstarter-name"]))
        await self.pool.serve(actor, aiter(requests), context.write)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        lab_pb2_grpc.add_LabServiceServicer_to_server(self, self._server)
        pair = (self._certificate.key.read_bytes(), self._certificate.chain.read_bytes())
        credentials = grpc.ssl_server_credentials([pair])
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def online(self) -> list[str]:
        return [router.endpoint for router in self.pool.describe() if router.online and not router.draining]


@pytest.fixture
async def controller(
    certificate: Certificate, one_loop: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Controller]:
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.5)
    controller = Controller(certificate)
    await controller.start()
    yield controller
    await controller.stop()


def settings(controller: Controller, certificate: Certificate, **more: Any) -> RemoteSettings:
    given: dict[str, Any] = {
        "controller": f"127.0.0.1:{controller.port}",
        "tls": TLSConfigV1Alpha1(ca=base64.b64encode(certificate.chain.read_bytes()).decode()),
        "metadata": ObjectMeta(namespace="lab", name="far"),
        "token": lambda: "secret",
        "endpoint": "",
        "listen": "127.0.0.1:0",
    }
    return RemoteSettings(**given | more)


def shown(certificate: Certificate) -> ServerCertificates:
    return ServerCertificates(Files(certificate.chain, certificate.key, ["127.0.0.1"], SystemClock()))


@asynccontextmanager
async def joined(controller: Controller, certificate: Certificate, **more: Any) -> AsyncIterator[tuple[Any, Running]]:
    """Yield a router that serves, and calls to it, when the controller gives it streams."""
    router = RemoteRouter(settings(controller, certificate, **more), shown(certificate))
    async with router.serving(), AsyncExitStack() as stack:
        await until(lambda: controller.online() == [router.endpoint])
        yield router, Running(router.endpoint, certificate, stack, router.relay)


async def test_it_joins_every_controller_of_a_lab(controller: Controller, certificate: Certificate) -> None:
    second = Controller(certificate)
    await second.start()
    try:
        others = (f"127.0.0.1:{second.port}",)
        async with joined(controller, certificate, others=others) as (router, _):
            await until(lambda: second.online() == [router.endpoint])
            await controller.stop()
            await until(lambda: second.online() == [router.endpoint])
    finally:
        await second.stop()


async def test_it_joins_a_controller_at_each_address_of_a_name(
    controller: Controller, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Controller(certificate)
    await second.start()
    addresses = [f"127.0.0.1:{controller.port}"]

    async def look_up(endpoint: str) -> list[str]:
        return list(addresses)

    monkeypatch.setattr(remote, "addresses_of", look_up)
    monkeypatch.setattr(remote, "LOOKUP_INTERVAL", 0.1)
    try:
        async with joined(controller, certificate, every_address=True) as (router, _):
            addresses.append(f"127.0.0.1:{second.port}")
            await until(lambda: second.online() == [router.endpoint])
            del addresses[0]
            await until(lambda: controller.online() == [])
            assert second.online() == [router.endpoint]
    finally:
        await second.stop()


async def test_the_addresses_of_a_name() -> None:
    assert "127.0.0.1:8082" in await addresses_of("localhost:8082")
    assert await addresses_of("no-such-name.invalid:8082") == []


def test_pauses_before_the_controller_is_tried_again_grow_to_some_seconds() -> None:
    pauses = Pauses()
    assert [pauses.after(0) for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]


def test_a_controller_that_was_there_for_some_seconds_is_tried_again_at_once() -> None:
    pauses = Pauses()
    for _ in range(6):
        pauses.after(0)
    assert [pauses.after(3), pauses.after(0)] == [0.5, 1]


async def test_router_that_has_joined_is_chosen_and_joins_callers(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    async with joined(controller, certificate, labels={"site": "north"}) as (_, calls):
        assert controller.pool.choose(BOARD) == calls.address
        client, exporter = await calls.pair(tokens)
        await until(lambda: [router.streams for router in controller.pool.describe()] == [1])
        assert [dict(router.labels) for router in controller.pool.describe()] == [{"site": "north"}]
        assert {name: controller.callers[0][name] for name in ("jumpstarter-kind", "jumpstarter-namespace")} == {
            "jumpstarter-kind": "Router",
            "jumpstarter-namespace": "lab",
        }
        client.cancel()
        exporter.cancel()


async def test_X06_cuts_of_the_controller_end_streams_of_the_router(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    async with joined(controller, certificate) as (_, calls):
        client, exporter = await calls.pair(tokens, lease="lab/l", client="c")
        controller.pool.cut_lease("lab/l")
        async with asyncio.timeout(PATIENCE):
            for call in (client, exporter):
                assert await call.read() is grpc.aio.EOF
                assert dict(await call.trailing_metadata())[END_KEY] == "cut"


async def test_X08_streams_go_on_without_the_controller_which_is_joined_again(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    async with joined(controller, certificate) as (router, calls):
        client, exporter = await calls.pair(tokens, "old", lease="lab/kept")
        ended, _other = await calls.pair(tokens, "over", lease="lab/over")
        await controller.stop()
        await until(lambda: controller.online() == [])
        async with asyncio.timeout(PATIENCE):
            await client.write(b"still there")
            assert await exporter.read() == b"still there"
        # Tokens that were issued before are good as well.
        await calls.pair(tokens, "new")
        controller.pool.cut_lease("lab/over")
        await controller.start()
        await until(lambda: controller.online() == [router.endpoint])
        async with asyncio.timeout(PATIENCE):
            assert await ended.read() is grpc.aio.EOF
            await client.write(b"and still")
            assert await exporter.read() == b"and still"


async def test_router_takes_new_keys(controller: Controller, certificate: Certificate, tokens: StreamTokens) -> None:
    new = StreamKeys([b"n" * 32])
    async with joined(controller, certificate) as (_, calls):
        running = asyncio.create_task(controller.pool.run())
        try:
            await asyncio.sleep(0)
            controller.keys.replace([*new.values, KEY])

            async def accepted() -> bool:
                call = await calls.call(StreamTokens(new, SystemClock()).issue("probe", side="client"))
                try:
                    async with asyncio.timeout(0.3):
                        await call.code()
                except TimeoutError:
                    call.cancel()
                    return True
                return False

            async with asyncio.timeout(PATIENCE):
                while not await accepted():
                    pass
            await calls.pair(tokens, "of the former key")
        finally:
            running.cancel()


async def test_before_it_has_joined_a_router_tells_callers_to_come_again(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    await controller.stop()
    router = RemoteRouter(settings(controller, certificate), shown(certificate))
    async with router.serving(), AsyncExitStack() as stack:
        call = await Running(router.endpoint, certificate, stack, router.relay).call(tokens.issue("s"))
        async with asyncio.timeout(PATIENCE):
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
            assert "dial again" in await call.details()


async def test_refused_router_says_why_and_joins_when_its_token_is_replaced(
    controller: Controller, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    token = "old"
    router = RemoteRouter(settings(controller, certificate, token=lambda: token), shown(certificate))
    async with router.serving():
        await until(lambda: "token is expired" in caplog.text)
        token = "secret"
        await until(lambda: controller.online() == [router.endpoint])
    assert "Bearer" not in caplog.text


async def test_draining_router_gets_no_streams_and_lets_the_open_ones_end(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    async with joined(controller, certificate) as (router, calls):
        client, exporter = await calls.pair(tokens)
        draining = asyncio.create_task(router.drain())
        await until(lambda: controller.online() == [])
        async with asyncio.timeout(PATIENCE):
            await client.write(b"x")
            assert await exporter.read() == b"x"
            assert not draining.done()
            await client.done_writing()
            await exporter.done_writing()
            await draining


async def test_router_that_can_not_listen_says_so(controller: Controller, certificate: Certificate) -> None:
    router = RemoteRouter(settings(controller, certificate, listen=f"127.0.0.1:{controller.port}"), shown(certificate))
    with pytest.raises(ConfigurationError, match="can't listen on"):
        async with router.serving():
            pass


async def test_router_with_a_senseless_endpoint_says_so(controller: Controller, certificate: Certificate) -> None:
    router = RemoteRouter(settings(controller, certificate, endpoint="nowhere"), shown(certificate))
    with pytest.raises(ConfigurationError, match="host:port"):
        async with router.serving():
            pass


PROGRAM = """
import anyio, json, sys
from pathlib import Path
from jumpstarter.common.tls import TLSConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.certificates import Files, ServerCertificates
from jumpstarter_controller.router.remote import RemoteSettings, run_router

given = json.loads(sys.argv[1])
chain, key = Path(given.pop("chain")), Path(given.pop("key"))
settings = RemoteSettings(
    tls=TLSConfigV1Alpha1(ca=given.pop("ca")),
    metadata=ObjectMeta(namespace="lab", name="far"),
    token=lambda: "secret",
    endpoint="",
    listen="127.0.0.1:0",
    **given,
)
anyio.run(run_router, settings, ServerCertificates(Files(chain, key, ["127.0.0.1"], SystemClock())))
"""


@asynccontextmanager
async def router_program(
    controller: Controller, certificate: Certificate, drain: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    given = {
        "chain": str(certificate.chain),
        "key": str(certificate.key),
        "ca": base64.b64encode(certificate.chain.read_bytes()).decode(),
        "controller": f"127.0.0.1:{controller.port}",
        "drain": drain,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, json.dumps(given))
    try:
        await until(lambda: len(controller.online()) == 1)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_X07_killed_router_is_left_out_and_a_new_one_serves_new_dials(
    controller: Controller, certificate: Certificate, tokens: StreamTokens
) -> None:
    async with router_program(controller, certificate, 1) as first, AsyncExitStack() as stack:
        calls = Running(controller.pool.choose(BOARD), certificate, stack, None)  # type: ignore[arg-type]
        client, _exporter = await calls.pair(tokens, "1")
        first.kill()
        await until(lambda: controller.online() == [])
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async with asyncio.timeout(PATIENCE):
                await client.read()
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        async with router_program(controller, certificate, 1):
            calls.address = controller.pool.choose(BOARD)
            await calls.pair(tokens, "2")


@pytest.mark.parametrize("signals", [1, 2], ids=["one", "two"])
async def test_router_drains_on_sigterm_and_a_second_one_ends_it_at_once(
    controller: Controller, certificate: Certificate, tokens: StreamTokens, signals: int
) -> None:
    async with router_program(controller, certificate, 60) as process, AsyncExitStack() as stack:
        calls = Running(controller.pool.choose(BOARD), certificate, stack, None)  # type: ignore[arg-type]
        client, exporter = await calls.pair(tokens)
        process.send_signal(signal.SIGTERM)
        await until(lambda: controller.online() == [])
        async with asyncio.timeout(PATIENCE):
            await client.write(b"x")
            assert await exporter.read() == b"x"
            if signals == 2:
                process.send_signal(signal.SIGTERM)
                assert await client.read() is grpc.aio.EOF
                assert dict(await client.trailing_metadata())[END_KEY] == "router-stopped"
            else:
                await client.done_writing()
                await exporter.done_writing()
            assert await process.wait() == 0
