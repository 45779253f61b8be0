"""What the status of a call means to its caller."""

from __future__ import annotations

import grpc
import pytest

from .calls import LOST_HINT, raise_for_call, raise_for_stream
from .errors import DriverError


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


REFUSED = (
    "failed to connect to all addresses; last error: FAILED_PRECONDITION: unix:/run/s: connect failed: "
    "addr: unix:/run/s error: Connection refused"
)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (REFUSED, "the exporter can't be reached (Connection refused)"),
        ("Stream removed (Socket closed)", "the connection to the exporter was lost"),
        ("the exporter restarts", "the exporter restarts"),
    ],
)
def test_a_lost_exporter_is_told_in_words_of_users_with_advice(details: str, expected: str) -> None:
    error = failed(grpc.StatusCode.UNAVAILABLE, details)
    with pytest.raises(DriverError) as of_call:
        raise_for_call(error, "on")
    with pytest.raises(DriverError) as of_stream:
        raise_for_stream(error)
    assert of_call.value.message == f"DriverCall 'on' failed with gRPC UNAVAILABLE: {expected}"
    assert of_stream.value.message == expected
    assert of_call.value.hint == of_stream.value.hint == LOST_HINT
    assert of_call.value.__cause__ is error


def test_other_errors_come_without_advice() -> None:
    with pytest.raises(DriverError) as caught:
        raise_for_call(failed(grpc.StatusCode.UNKNOWN, "Socket closed"), "on")
    assert caught.value.message.endswith("UNKNOWN: Socket closed")
    assert caught.value.hint is None
