"""Time limits and cancellation around unary calls that are never answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import grpc
import pytest

from jumpstarter.common.cancellation import answer
from jumpstarter.common.tempfile import TemporaryUnixListener


@pytest.fixture
async def call() -> AsyncIterator[Any]:
    """A method of a server that accepts connections and says nothing."""

    async def silence(_: Any) -> None:
        await anyio.sleep_forever()

    async with (
        TemporaryUnixListener(silence) as path,
        grpc.aio.insecure_channel(f"unix://{path}") as channel,
    ):
        method = channel.unary_unary("/service/method")
        yield lambda: method(b"", wait_for_ready=True)


async def test_a_time_limit_that_fails_does(call: Any):
    with pytest.raises(TimeoutError), anyio.fail_after(0.05):
        await answer(call())


async def test_a_time_limit_that_moves_on_does(call: Any):
    with anyio.move_on_after(0.05) as scope:
        await answer(call())
    assert scope.cancelled_caught


async def test_a_task_that_runs_out_of_time_is_not_dropped_without_a_word(call: Any):
    async def limited() -> None:
        with anyio.fail_after(0.05):
            await answer(call())

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limited)
    assert caught.group_contains(TimeoutError)
