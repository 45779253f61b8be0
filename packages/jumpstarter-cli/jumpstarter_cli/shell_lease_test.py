"""How `jmp shell` goes on when the exporter of its lease can't be reached."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.common.exceptions import ExporterUnreachableError
from jumpstarter_cli_common.exceptions import find_exception_in_group

from . import shell


class Leases:
    """A config whose leases can't be used for as long as they last, until the last one."""

    token = None

    def __init__(self, unusable: int, lasting: float) -> None:
        self.unusable, self.lasting, self.made = unusable, lasting, 0

    @asynccontextmanager
    async def lease_async(self, *_: Any, **__: Any) -> Any:
        self.made += 1
        yield SimpleNamespace(retry_timeout=30, release=True, name=f"l{self.made}", lease_ended=False)

    async def session(self, *_: Any) -> int:
        if self.made <= self.unusable:
            await anyio.sleep(self.lasting)
            raise ExporterUnreachableError("nobody answers")
        return 0


async def run(leases: Leases, lease_name: str | None = None, command: tuple[str, ...] = ()) -> int:
    async def monitor(*_: Any) -> None:
        await anyio.sleep_forever()

    duration = timedelta(seconds=0.2)
    with (
        patch("jumpstarter_cli.shell._monitor_token_expiry", monitor),
        patch("jumpstarter_cli.shell._run_shell_with_lease_async", leases.session),
        anyio.fail_after(20),
    ):
        return await shell._shell_with_signal_handling(leases, "a=b", None, lease_name, duration, False, command, None)


async def test_another_exporter_is_leased_when_one_is_unreachable() -> None:
    leases = Leases(unusable=1, lasting=0)
    assert await run(leases) == 0
    assert leases.made == 2


async def test_H05_no_further_lease_is_made_when_one_was_over_before_it_could_be_used() -> None:
    leases = Leases(unusable=9, lasting=0.3)
    with pytest.raises(BaseExceptionGroup) as raised:
        await run(leases)
    error = find_exception_in_group(raised.value, LeaseError)
    assert "over after 0.2s, before its exporter was ready" in str(error)
    assert "--duration" in str(error)
    assert leases.made == 1


async def test_the_duration_says_nothing_about_a_lease_that_was_there_before() -> None:
    leases = Leases(unusable=1, lasting=0.3)
    assert await run(leases, "mine") == 0


class Cut(Leases):
    """A config whose lease ends under whatever is done in it."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.lease = SimpleNamespace(retry_timeout=0, release=True, name="l1", lease_ended=False)

    @asynccontextmanager
    async def lease_async(self, *_: Any, **__: Any) -> Any:
        yield self.lease

    async def session(self, *_: Any) -> int:
        self.lease.lease_ended = True
        raise ConnectionResetError("the exporter closed the connection")


async def test_a_shell_whose_lease_ends_is_no_failure() -> None:
    assert await run(Cut()) == 0


async def test_a_command_whose_lease_ends_is_not_taken_for_a_success() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await run(Cut(), command=("true",))
    assert "ended before the command was through" in str(find_exception_in_group(raised.value, LeaseError))
