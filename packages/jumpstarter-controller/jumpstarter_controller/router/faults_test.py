"""Bulk, and ends that vanish, stall or lose their network: the other end is told, and the router stays small."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import grpc
import pytest
from anyio import EndOfStream
from jumpstarter.common.router import RouterChannels
from jumpstarter.common.tls import TLSConfigV1Alpha1
from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.router import RouterStream
from jumpstarter_protocol import router_pb2

from jumpstarter_controller.identity.streams import StreamTokens

from .conftest import PATIENCE, Certificate, Process, Serve, until
from .relay import END_KEY
from .service import METHOD

CHUNK = 256 << 10
BULK = int(os.environ.get("JMP_ROUTER_TEST_BYTES", 1 << 30))
ROOM = 96 << 20
"""Bytes that a router may need for a stream that stalls: what gRPC buffers for the way to and from it."""

READER = """
import asyncio, hashlib, sys, grpc
from pathlib import Path

async def main(address, chain, token, method):
    credentials = grpc.ssl_channel_credentials(Path(chain).read_bytes())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call = channel.stream_stream(method)(metadata=(("authorization", "Bearer " + token),))
        await call.write(b"here")
        digest = hashlib.sha1()
        while (frame := await call.read()) is not grpc.aio.EOF:
            if frame == b"end":
                break
            digest.update(frame)
        await call.write(digest.digest())
        await call.done_writing()

asyncio.run(main(*sys.argv[1:]))
"""
"""Reads messages up to `end` and answers with their digest."""


@asynccontextmanager
async def reader(address: str, certificate: Certificate, token: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, address, str(certificate.chain), token, METHOD, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def framed(certificate: Certificate, channel: grpc.aio.Channel, token: str) -> RouterStream:
    call = channel.stream_stream(
        METHOD,
        request_serializer=router_pb2.StreamRequest.SerializeToString,
        response_deserializer=router_pb2.StreamResponse.FromString,
    )(metadata=(("authorization", f"Bearer {token}"),))
    return RouterStream(context=call)


async def pour(sink: RouterStream, size: int, seed: int) -> str:
    """Send bytes that look random, in chunks of odd sizes, and the end; return their digest."""
    random, digest, sent = Random(seed), hashlib.sha1(), 0
    block = random.randbytes(CHUNK + 4096)
    while sent < size:
        start = random.randrange(4096)
        chunk = block[start : start + min(random.choice((1, 4095, 65536, CHUNK, CHUNK, CHUNK)), size - sent)]
        digest.update(chunk)
        await sink.send(chunk)
        sent += len(chunk)
    await sink.send_eof()
    return digest.hexdigest()


async def drink(source: RouterStream) -> tuple[int, str]:
    """Return number and digest of the bytes that arrive."""
    digest, count = hashlib.sha1(), 0
    while True:
        try:
            chunk = await source.receive()
        except EndOfStream:
            return count, digest.hexdigest()
        digest.update(chunk)
        count += len(chunk)


@pytest.mark.timeout(900)
async def test_X02_bulk_arrives_exactly_both_ways_in_bounded_memory(
    router_process: Process, certificate: Certificate, tokens: StreamTokens, one_loop: None
) -> None:
    before = router_process.resident()
    peak = before

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, router_process.resident())
            await asyncio.sleep(0.05)

    back = BULK // 16
    async with (
        certificate.channel(router_process.address) as one,
        certificate.channel(router_process.address) as two,
    ):
        client = framed(certificate, one, tokens.issue("s", side="client"))
        exporter = framed(certificate, two, tokens.issue("s", side="exporter"))
        watching = asyncio.create_task(watch())
        try:
            async with asyncio.timeout(600):
                sent, received, sent_back, received_back = await asyncio.gather(
                    pour(client, BULK, 1), drink(exporter), pour(exporter, back, 2), drink(client)
                )
        finally:
            watching.cancel()
    assert received == (BULK, sent)
    assert received_back == (back, sent_back)
    assert peak - before < ROOM


async def test_all_that_was_sent_arrives_although_its_sender_leaves_when_both_directions_have_ended(
    router_process: Process, certificate: Certificate, tokens: StreamTokens, one_loop: None
) -> None:
    size = 8 << 20
    tls = TLSConfigV1Alpha1(ca=base64.b64encode(certificate.chain.read_bytes()).decode())
    near, far = create_memory_stream()
    async with certificate.channel(router_process.address) as channel:
        exporter = framed(certificate, channel, tokens.issue("s", side="exporter"))

        async def client() -> None:
            async with (
                RouterChannels(tls) as channels,
                channels.connect(router_process.address, tokens.issue("s", side="client"), far),
            ):
                await near.send(bytes(size))
                await near.send_eof()

        async with asyncio.timeout(60):
            # The exporter has nothing to say, and reads slowly at first.
            await exporter.send_eof()
            leaving = asyncio.create_task(client())
            first = await exporter.receive()
            await asyncio.wait([leaving], timeout=1)
            count, _ = await drink(exporter)
            await leaving
    assert len(first) + count == size


async def test_X04_when_a_process_is_killed_its_idle_peer_ends_well(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router:
        client = await router.call(tokens.issue("s", side="client"))
        async with reader(router.address, router.certificate, tokens.issue("s", side="exporter")) as exporter:
            async with asyncio.timeout(PATIENCE):
                assert await client.read() == b"here"
            exporter.kill()
            async with asyncio.timeout(PATIENCE):
                assert await client.read() is grpc.aio.EOF
                assert await client.code() == grpc.StatusCode.OK
        assert dict(await client.trailing_metadata())[END_KEY] == "peer-lost"


async def test_stalled_reader_stops_its_sender_and_costs_the_router_little(
    router_process: Process, certificate: Certificate, tokens: StreamTokens, one_loop: None
) -> None:
    sent = 0
    digest = hashlib.sha1()
    chunk = Random(3).randbytes(CHUNK)
    async with certificate.channel(router_process.address) as channel:
        call = channel.stream_stream(METHOD)(
            metadata=(("authorization", f"Bearer {tokens.issue('s', side='client')}"),)
        )
        async with reader(router_process.address, certificate, tokens.issue("s", side="exporter")) as stalled:
            async with asyncio.timeout(PATIENCE):
                assert await call.read() == b"here"
            before = router_process.resident()
            stalled.send_signal(signal.SIGSTOP)

            async def push() -> None:
                nonlocal sent
                while sent < 400 << 20:
                    await call.write(chunk)
                    digest.update(chunk)
                    sent += len(chunk)
                await call.write(b"end")

            pushing = asyncio.create_task(push())
            try:
                # Given that the sender came to a halt, as nobody reads.
                last = -1
                async with asyncio.timeout(PATIENCE):
                    while last != sent:
                        last = sent
                        await asyncio.wait([pushing], timeout=1)
                assert not pushing.done()
                assert sent < ROOM
                assert router_process.resident() - before < ROOM
                # When the reader goes on, everything arrives.
                stalled.send_signal(signal.SIGCONT)
                async with asyncio.timeout(60):
                    await pushing
                    assert await call.read() == digest.digest()
                    await call.done_writing()
                    assert await call.read() is grpc.aio.EOF
                    assert await call.code() == grpc.StatusCode.OK
            finally:
                pushing.cancel()
                await asyncio.gather(pushing, return_exceptions=True)


@dataclass
class Proxy:
    """A TCP proxy that can lose all that passes, or its connections."""

    address: str
    silent: bool = False
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    host, _, port = target.rpartition(":")
    running = Proxy("")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not running.silent:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        if not running.silent:
            sink.close()

    async def accept(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        far_source, far_sink = await asyncio.open_connection(host, int(port))
        running.writers += [sink, far_sink]
        await asyncio.gather(copy(source, far_sink), copy(far_source, sink))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        running.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield running
    finally:
        server.close()
        running.cut()
        await until(lambda: all(writer.is_closing() for writer in running.writers))


async def test_X04_when_a_connection_breaks_the_idle_peer_ends_well(serve: Serve, tokens: StreamTokens) -> None:
    async with serve() as router, proxy(router.address) as way:
        client = await router.call(tokens.issue("s", side="client"))
        exporter = await router.call(tokens.issue("s", side="exporter"), way.address)
        async with asyncio.timeout(PATIENCE):
            await exporter.write(b"x")
            assert await client.read() == b"x"
            way.cut()
            assert await client.read() is grpc.aio.EOF
            assert await client.code() == grpc.StatusCode.OK


async def test_X04_when_a_network_is_gone_without_a_word_the_idle_peer_ends_within_the_keepalive(
    serve: Serve, tokens: StreamTokens
) -> None:
    async with (
        serve(**{"keepalive_time_ms": 1000, "keepalive_timeout_ms": 1000, "http2.ping_timeout_ms": 1000}) as router,
        proxy(router.address) as way,
    ):
        client = await router.call(tokens.issue("s", side="client"))
        exporter = await router.call(tokens.issue("s", side="exporter"), way.address)
        async with asyncio.timeout(PATIENCE):
            await exporter.write(b"x")
            assert await client.read() == b"x"
            way.silent = True
            assert await client.read() is grpc.aio.EOF
            assert await client.code() == grpc.StatusCode.OK
        assert router.relay.counters().ended_total == {"peer-lost": 1}
        assert router.relay.counters().streams == 0


async def test_many_ends_that_come_and_vanish_leave_nothing_behind(serve: Serve, tokens: StreamTokens) -> None:
    random = Random(4)
    async with serve() as router:

        async def one(number: int) -> None:
            client, exporter = await router.pair(tokens, f"s{number}", lease=f"l{number % 7}")
            await client.write(bytes(random.randrange(100_000)))
            match number % 4:
                case 0:
                    client.cancel()
                case 1:
                    exporter.cancel()
                case 2:
                    router.relay.cut([f"s{number}"])
                case _:
                    await client.done_writing()
                    await exporter.done_writing()

        async with asyncio.timeout(60):
            for start in range(0, 100, 10):
                await asyncio.gather(*(one(number) for number in range(start, start + 10)))
        await until(lambda: router.relay.counters().streams == 0)
        counters = router.relay.counters()
        assert (counters.streams_total, counters.waiting) == (100, 0)
