"""Routers on loopback for tests: in the loop of the test, or in a process of their own."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.keys import StreamKeys
from jumpstarter_controller.identity.streams import StreamTokens
from jumpstarter_controller.router.options import SERVER_OPTIONS
from jumpstarter_controller.router.service import METHOD, Limits, Relay

PATIENCE = 10.0
KEY = b"k" * 32


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for loopback and its key, as PEM files."""

    chain: Path
    key: Path

    def channel(self, address: str, **options: Any) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.chain.read_bytes())
        given = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
        return grpc.aio.secure_channel(address, credentials, options=given)


def make_certificate(folder: Path) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    chain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = Certificate(folder / "chain.pem", folder / "key.pem")
    certificate.chain.write_bytes(chain.public_bytes(serialization.Encoding.PEM))
    certificate.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has come about that nobody tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (there is no event of it)
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tokens() -> StreamTokens:
    """Issues tokens that the routers of the tests accept."""
    return StreamTokens(StreamKeys([KEY]), SystemClock())


@dataclass
class Running:
    """A router that listens, and calls to it."""

    address: str
    certificate: Certificate
    stack: AsyncExitStack
    relay: Relay
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    async def call(self, token: str, address: str = "", **options: Any) -> grpc.aio.StreamStreamCall:
        """Begin a call of bytes, on a connection of its own, as peers do."""
        channel = self.certificate.channel(address or self.address, **options)
        await self.stack.enter_async_context(channel)
        return channel.stream_stream(METHOD)(metadata=(("authorization", f"Bearer {token}"),))

    async def pair(self, tokens: StreamTokens, stream: str = "s", **claims: str) -> tuple[Any, Any]:
        """Return the calls of client and exporter, joined."""
        client = await self.call(tokens.issue(stream, side="client", **claims))
        exporter = await self.call(tokens.issue(stream, side="exporter", **claims))
        async with asyncio.timeout(PATIENCE):
            await client.write(b"hello")
            assert await exporter.read() == b"hello"
        return client, exporter


Serve = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serve(certificate: Certificate, tokens: StreamTokens, one_loop: None) -> Serve:
    """Return a context manager that serves a relay over TLS on the loop of the test."""

    @asynccontextmanager
    async def serving(limits: Limits | None = None, **options: int) -> AsyncIterator[Running]:
        relay = Relay(tokens.verify, limits)
        given = dict(SERVER_OPTIONS) | {f"grpc.{name}": value for name, value in options.items()}
        server = grpc.aio.server(options=list(given.items()))
        server.add_generic_rpc_handlers([relay])
        pair = (certificate.key.read_bytes(), certificate.chain.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        try:
            async with AsyncExitStack() as stack:
                yield Running(f"127.0.0.1:{port}", certificate, stack, relay)
        finally:
            await relay.stop()
            await server.stop(None)

    return serving


PROGRAM = """
import asyncio, json, sys, grpc
from pathlib import Path
from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.keys import StreamKeys
from jumpstarter_controller.identity.streams import StreamTokens
from jumpstarter_controller.router.options import SERVER_OPTIONS
from jumpstarter_controller.router.service import Relay

async def main(chain, key, secret):
    relay = Relay(StreamTokens(StreamKeys([secret.encode()]), SystemClock()).verify)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers([relay])
    pair = (Path(key).read_bytes(), Path(chain).read_bytes())
    print(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await relay.stop()
    await server.stop(None)

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Process:
    """A router in a process of its own."""

    pid: int
    address: str

    def resident(self) -> int:
        """Return the bytes of memory that it uses now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel tells no memory use")


@pytest.fixture
def router_process(certificate: Certificate) -> Iterator[Process]:
    """Serve a relay over TLS from another process."""
    command = [sys.executable, "-c", PROGRAM, str(certificate.chain), str(certificate.key), KEY.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        assert port, "the router did not start"
        try:
            yield Process(process.pid, f"127.0.0.1:{port}")
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
