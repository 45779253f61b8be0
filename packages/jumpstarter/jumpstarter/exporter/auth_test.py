"""What a passphrase keeps out, over real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from anyio import Event
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2, router_pb2_grpc

from jumpstarter.driver import Driver, export
from jumpstarter.exporter import Session
from jumpstarter.exporter.auth import (
    PASSPHRASE_METADATA_KEY,
    PassphraseInterceptor,
    passphrase_client_interceptors,
)

SECRET = "correct horse"


class Echo(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value


@asynccontextmanager
async def session_with_passphrase() -> AsyncIterator[tuple[Session, int]]:
    with Session(root_device=Echo()) as session:
        async with session.serve_tcp_async("127.0.0.1", 0, interceptors=[PassphraseInterceptor(SECRET)]) as port:
            yield session, port


def every_shape(channel: grpc.aio.Channel, uuid: str, metadata: Any = None) -> dict[str, Any]:
    """One call of each shape that sessions have."""
    exporter = jumpstarter_pb2_grpc.ExporterServiceStub(channel)

    async def streamed(call: Any) -> None:
        async for _ in call:
            break

    async def bidirectional() -> None:
        # The requests as an iterable: written one by one, gRPC takes them behind interceptors from a generator of its
        # own, which waits for ever when the server ends the call. None are sent, as gRPC takes one that comes after
        # the end of the call for an error of its own.
        over = Event()

        async def no_requests() -> AsyncIterator[router_pb2.StreamRequest]:
            await over.wait()
            for request in ():
                yield request

        try:
            await streamed(router_pb2_grpc.RouterServiceStub(channel).Stream(no_requests(), metadata=metadata))
        finally:
            over.set()

    return {
        "unary": lambda: exporter.GetReport(empty_pb2.Empty(), metadata=metadata),
        "server stream": lambda: streamed(
            exporter.StreamingDriverCall(
                jumpstarter_pb2.StreamingDriverCallRequest(uuid=uuid, method="none"), metadata=metadata
            )
        ),
        "both ways": bidirectional,
    }


async def status_of(call: Any) -> grpc.StatusCode:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("shape", ["unary", "server stream", "both ways"])
@pytest.mark.parametrize(
    "given",
    [
        None,
        ((PASSPHRASE_METADATA_KEY, ""),),
        ((PASSPHRASE_METADATA_KEY, "correct hors"),),
        ((PASSPHRASE_METADATA_KEY, "wrong"), (PASSPHRASE_METADATA_KEY, SECRET)),
    ],
    ids=["missing", "empty", "shorter", "twice"],
)
async def test_calls_of_any_shape_without_the_passphrase_are_refused(shape: str, given: Any):
    async with session_with_passphrase() as (session, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = every_shape(channel, str(session.root_device.uuid), given)[shape]
        assert await status_of(call) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_that_does_not_exist_is_refused_like_any_other():
    async with session_with_passphrase() as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        unknown = channel.unary_unary("/jumpstarter.v1.ExporterService/Unknown")
        assert await status_of(lambda: unknown(b"")) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("unary", grpc.StatusCode.OK),
        ("server stream", grpc.StatusCode.NOT_FOUND),
        ("both ways", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_the_client_interceptors_get_calls_of_any_shape_through(shape: str, expected: grpc.StatusCode):
    async with (
        session_with_passphrase() as (session, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=passphrase_client_interceptors(SECRET)) as channel,
    ):
        call = every_shape(channel, str(session.root_device.uuid))[shape]
        assert await status_of(call) is expected


@pytest.mark.parametrize("value", ["gr\u00fcn", b"\xff\xfe", "\U0001f600"])
async def test_a_value_that_is_not_ascii_is_refused_and_not_an_error(value: Any):
    """A caller that puts anything on the wire, as grpc itself wouldn't let ours."""
    interceptor = PassphraseInterceptor(SECRET)

    class Details:
        method = "/x/Y"
        invocation_metadata = ((PASSPHRASE_METADATA_KEY, value),)

    async def continuation(_: Any) -> Any:
        raise AssertionError("the call got through")

    assert await interceptor.intercept_service(continuation, Details()) is interceptor._refusal


@pytest.mark.parametrize("useless", ["", "gr\u00fcn", "two\nlines", " blank"])
def test_a_passphrase_that_no_header_can_carry_is_refused_on_both_sides(useless: str):
    with pytest.raises(ValueError, match="passphrase"):
        PassphraseInterceptor(useless)
    with pytest.raises(ValueError, match="passphrase"):
        passphrase_client_interceptors(useless)
