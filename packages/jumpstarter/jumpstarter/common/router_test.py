"""What the end of a stream through a router means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.common.router import UnmetError, _failure

MASKED = "Internal error from Core"


@pytest.mark.parametrize(
    ("code", "details", "answered", "failure"),
    [
        (grpc.StatusCode.OK, "", True, None),
        (grpc.StatusCode.OK, "", False, None),
        (grpc.StatusCode.CANCELLED, "", True, None),
        (grpc.StatusCode.ABORTED, "", True, None),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", True, ConnectionError),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", False, UnmetError),
        (grpc.StatusCode.UNAUTHENTICATED, "used already", False, ConnectionError),
        (grpc.StatusCode.INTERNAL, "bug", False, ConnectionError),
        (grpc.StatusCode.INTERNAL, MASKED, True, None),
        (grpc.StatusCode.INTERNAL, MASKED, False, UnmetError),
    ],
)
def test_the_status_of_a_stream_tells_whether_it_failed(
    code: grpc.StatusCode, details: str, answered: bool, failure: type[Exception] | None
) -> None:
    assert _failure(code, details, answered=answered) is failure


async def test_that_is_what_grpc_says_of_a_message_that_the_end_of_a_call_overtakes() -> None:
    """So that a release of gRPC that words it otherwise is noticed."""
    said: set[tuple[grpc.StatusCode, str]] = set()

    async def end(requests: Any, context: Any) -> None:
        return

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(end)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", {"End": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(2000):
                call = channel.stream_stream("/test/End")(_messages())
                said.add((await call.code(), await call.details() or ""))
                if len(said) > 1:
                    break
    finally:
        await server.stop(None)
    assert said <= {(grpc.StatusCode.OK, ""), (grpc.StatusCode.INTERNAL, MASKED)}


def _messages() -> Iterator[bytes]:
    yield from (b"x",) * 8
