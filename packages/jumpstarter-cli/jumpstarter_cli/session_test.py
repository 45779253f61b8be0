"""What a shell with a lease waits for, and what ends that."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest

from . import shell_session
from .shell_session import _cancel_if_connection_lost

LIMIT = 10.0


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_session, "LOOK_INTERVAL", 0.01)


async def test_a_result_that_comes_is_returned() -> None:
    async def soon() -> str:
        return "ready"

    with anyio.fail_after(LIMIT):
        waiting = _cancel_if_connection_lost(
            SimpleNamespace(connection_lost=False), soon(), SimpleNamespace(lease_ended=False)
        )
        assert await waiting == "ready"


async def test_a_lost_connection_ends_the_wait() -> None:
    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(SimpleNamespace(connection_lost=True), anyio.sleep_forever()) is None


async def test_the_end_of_the_lease_ends_the_wait_although_the_exporter_might_answer_again() -> None:
    lease = SimpleNamespace(lease_ended=False)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                lease.lease_ended = True

            tasks.start_soon(end)
            waiting = _cancel_if_connection_lost(SimpleNamespace(connection_lost=False), anyio.sleep_forever(), lease)
            assert await waiting is None


async def test_the_last_status_may_come_after_the_end_of_the_lease() -> None:
    async def soon() -> str:
        await anyio.sleep(0.01)
        return "available"

    lease = SimpleNamespace(lease_ended=True)
    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(SimpleNamespace(connection_lost=False), soon(), lease) == "available"
