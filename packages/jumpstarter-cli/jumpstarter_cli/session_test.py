"""What a shell with a lease waits for, and what ends that."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest
from jumpstarter.common import ExporterStatus

from . import shell_session
from .shell_session import _cancel_if_connection_lost, _end_session

LIMIT = 10.0

CONNECTED = SimpleNamespace(connection_lost=False)


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_session, "LOOK_INTERVAL", 0.01)


async def test_a_result_that_comes_is_returned() -> None:
    async def soon() -> str:
        return "ready"

    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(CONNECTED, soon(), lambda: False) == "ready"


async def test_a_lost_connection_ends_the_wait() -> None:
    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(SimpleNamespace(connection_lost=True), anyio.sleep_forever()) is None


async def test_a_wait_without_hope_ends_although_the_exporter_might_answer_again() -> None:
    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(CONNECTED, anyio.sleep_forever(), lambda: True) is None


async def test_the_last_status_may_come_after_the_end_of_the_lease() -> None:
    async def soon() -> str:
        await anyio.sleep(0.01)
        return "available"

    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(CONNECTED, soon(), lambda: True) == "available"


async def test_hope_that_comes_back_goes_on_with_the_wait() -> None:
    looks = iter([True, True, False, True, True, False])
    done = anyio.Event()

    async def end() -> str:
        await done.wait()
        return "available"

    def hopeless() -> bool:
        look = next(looks, None)
        if look is None:
            done.set()
        return bool(look)

    with anyio.fail_after(LIMIT):
        assert await _cancel_if_connection_lost(CONNECTED, end(), hopeless) == "available"


class Exporter:
    """One whose session is ended, and that has started anew instead of telling what came of that."""

    def __init__(self) -> None:
        self.ended = False

    async def get_status_async(self) -> ExporterStatus:
        return ExporterStatus.LEASE_READY

    async def end_session_async(self) -> bool:
        self.ended = True
        return True


async def test_an_exporter_that_starts_anew_while_its_session_ends_is_not_waited_for() -> None:
    exporter, lease = Exporter(), SimpleNamespace(lease_ended=False)
    monitor = SimpleNamespace(
        connection_lost=False,
        current_status=ExporterStatus.LEASE_READY,
        status_message="",
        wait_for_any_of=lambda *_, **__: anyio.sleep_forever(),
    )
    with anyio.fail_after(LIMIT):
        await _end_session(exporter, monitor, lease)
    assert exporter.ended
