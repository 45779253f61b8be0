"""Leases of a controller that tells of changes: waited for, watched over, shared, and lost sight of."""

from __future__ import annotations

import logging
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import grpc
import pytest
from anyio import create_task_group, fail_after

from jumpstarter.client.exceptions import LeaseError
from jumpstarter.client.lease import Lease
from jumpstarter.config.serving import controller_channel

HALF_HOUR = timedelta(minutes=30)
BOUND = 20


@asynccontextmanager
async def lease_of(lab: Any, who: str = "alice", **changes: Any) -> Any:
    """A lease of a client that is not entered yet."""
    config = lab.client(who)
    async with await controller_channel("Client", config) as channel:
        values: dict[str, Any] = {
            "channel": channel,
            "duration": HALF_HOUR,
            "selector": "board=rpi",
            "portal": lab.portal,
            "namespace": config.metadata.namespace,
            "client_name": config.metadata.name,
            "allow": [],
            "unsafe": True,
            "tls_config": config.tls,
        }
        yield Lease(**(values | changes))


async def until(condition: Any) -> None:
    with fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in gRPC's own tasks)
            await anyio.sleep(0.005)


def told(caplog: pytest.LogCaptureFixture, pattern: str) -> bool:
    return any(re.search(pattern, record.getMessage()) for record in caplog.records)


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# -- waiting -------------------------------------------------------------------------------------


async def test_a_free_board_is_granted_without_asking_again(telling_lab: Any) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as lease, lease:
        assert lease.exporter_name == "rpi-1"
        assert telling_lab.faults.calls["GetLease"] == 0


async def test_a_grant_is_seen_at_once(telling_lab: Any) -> None:
    granted = 0.0
    async with lease_of(telling_lab) as lease, create_task_group() as tg:

        async def plug_in() -> None:
            nonlocal granted
            await until(lambda: telling_lab.service.watches["WatchLease"])
            telling_lab.controller.add("rpi-1", board="rpi")
            granted = time.monotonic()

        tg.start_soon(plug_in)
        with fail_after(BOUND):
            async with lease:
                assert time.monotonic() - granted < 0.5


async def test_the_place_and_who_has_the_board_are_told(telling_lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with (
        lease_of(telling_lab, "bob") as held,
        held,
        lease_of(telling_lab) as lease,
        create_task_group() as tg,
    ):
        tg.start_soon(lease.request_async)
        await until(lambda: told(caplog, r"waiting: next in the queue; rpi-1 is used by bob until .*\(\d+m left\)"))
        tg.cancel_scope.cancel()
    assert telling_lab.controller.active() == []


async def test_a_lost_controller_is_told_and_the_wait_goes_on(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.faults.refuse["WatchLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
    async with lease_of(telling_lab) as lease, create_task_group() as tg:

        async def plug_in() -> None:
            await until(lambda: telling_lab.service.watches["WatchLease"])
            telling_lab.controller.add("rpi-1", board="rpi")

        tg.start_soon(plug_in)
        with fail_after(BOUND):
            async with lease:
                assert lease.exporter_name == "rpi-1"
    assert told(caplog, "still waiting: can't reach the controller: restarting; trying again")


async def test_a_stream_that_breaks_is_opened_again(telling_lab: Any) -> None:
    async with lease_of(telling_lab) as lease, create_task_group() as tg:

        async def disturb() -> None:
            await until(lambda: telling_lab.service.watches["WatchLease"])
            telling_lab.faults.refuse["WatchLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")]
            telling_lab.controller.touch()
            await until(lambda: not telling_lab.faults.refuse["WatchLease"])
            telling_lab.controller.add("rpi-1", board="rpi")

        tg.start_soon(disturb)
        with fail_after(BOUND):
            async with lease:
                assert lease.exporter_name == "rpi-1"


async def test_a_refusal_ends_the_wait(telling_lab: Any) -> None:
    async with lease_of(telling_lab) as lease, create_task_group() as tg:

        async def refuse() -> None:
            await until(lambda: telling_lab.service.watches["WatchLease"])
            (name,) = telling_lab.controller.leases
            telling_lab.controller._condition(
                telling_lab.controller.leases[name], "Unsatisfiable", "True", "NoAccess", "no policy allows it"
            )
            telling_lab.controller.touch()

        tg.start_soon(refuse)
        with fail_after(BOUND), pytest.raises(LeaseError, match="cannot be satisfied: no policy allows it"):
            await lease.request_async()
    assert telling_lab.controller.active() == []


async def test_a_wait_that_takes_too_long_withdraws_the_request(telling_lab: Any) -> None:
    async with lease_of(telling_lab, acquisition_timeout=0.5) as lease:
        with pytest.raises(LeaseError, match=r"no exporter was acquired within 0\.5 s"):
            await lease.request_async()
    assert telling_lab.controller.active() == []
    await until(lambda: not telling_lab.service.watches["WatchLease"])


async def test_an_older_controller_is_asked_again_and_again(lab: Any) -> None:
    async with lease_of(lab) as lease, create_task_group() as tg:

        async def plug_in() -> None:
            await until(lambda: lab.faults.calls["GetLease"] >= 3)
            lab.controller.add("rpi-1", board="rpi")

        tg.start_soon(plug_in)
        with fail_after(BOUND):
            async with lease:
                assert lease.exporter_name == "rpi-1"


# -- watching over -------------------------------------------------------------------------------


async def test_the_end_is_told_when_it_is_near_and_at_once_when_it_has_come(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab, duration=timedelta(seconds=60)) as lease, lease, lease.monitor_async():
        await until(lambda: told(caplog, r"ends in 59s|ends in 1m"))
        assert told(caplog, f"jmp update lease {lease.name} --extend")
        telling_lab.service.extra[lease.name]["reason"] = "released by an administrator"
        telling_lab.controller.end(lease.name)
        await until(lambda: lease.lease_ended)
    assert told(caplog, "has ended: released by an administrator")


async def test_an_extension_is_told_and_the_new_end_warned_of(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    warned: list[timedelta] = []
    async with lease_of(telling_lab, duration=timedelta(seconds=60)) as lease, lease:
        lease.lease_ending_callback = lambda _, left: warned.append(left)
        async with lease.monitor_async(threshold=timedelta(seconds=100)):
            await until(lambda: warned)
            end = datetime.now(UTC) + timedelta(seconds=101)
            telling_lab.service.extra[lease.name]["until"] = end
            telling_lab.controller.touch()
            await until(lambda: told(caplog, r"was extended and ends at .* \(1m 40s left\)"))
            await until(lambda: len(warned) == 2)
    assert timedelta(seconds=95) < warned[1] <= timedelta(seconds=100)


async def test_a_lease_that_is_not_used_is_told_before_it_ends(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as lease, lease:
        idle_for = timedelta(seconds=1.6)
        telling_lab.service.extra[lease.name]["idle_until"] = datetime.now(UTC) + idle_for
        async with lease.monitor_async():
            await until(lambda: told(caplog, r"was not used for 0s and ends in 0s, at .*, unless it is used"))
            telling_lab.service.extra[lease.name]["idle_until"] = datetime.now(UTC) + timedelta(minutes=20)
            telling_lab.controller.touch()
            await until(lambda: told(caplog, "is used again"))


async def test_a_lease_that_was_handed_over_is_noticed_at_once(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as lease, lease, lease.monitor_async():
        await until(lambda: telling_lab.service.watches["WatchLease"])
        await lease.svc.UpdateLease(name=lease.name, client="bob")
        await until(lambda: lease.lease_transferred)
    assert told(caplog, "belongs to client 'bob' now")
    assert telling_lab.faults.calls["DeleteLease"] == 0


async def test_a_controller_that_goes_and_comes_is_told_once_each(
    telling_lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as lease, lease, lease.monitor_async():
        await until(lambda: telling_lab.service.watches["WatchLease"])
        telling_lab.faults.refuse["WatchLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
        telling_lab.controller.touch()
        await until(lambda: told(caplog, "is watched again"))
    assert sum("can't be watched" in record.getMessage() for record in caplog.records) == 1


async def test_ends_are_told_right_although_clocks_differ(telling_lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    telling_lab.controller.ahead = timedelta(hours=3)
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab, duration=timedelta(seconds=100)) as lease, lease, lease.monitor_async():
        await until(lambda: told(caplog, r"ends in 1m 39s, at "))
    here = datetime.now().astimezone() + timedelta(seconds=100)
    assert told(caplog, f"at {here:%H:%M}|at {here - timedelta(seconds=5):%H:%M}")


# -- sharing -------------------------------------------------------------------------------------


async def test_a_shared_lease_is_used_and_left_to_its_owner(telling_lab: Any) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as first, first:
        state = await first.svc.share_lease(first.name, "bob", "driver")
        assert state.shares == {"bob": "driver"}
        async with lease_of(telling_lab, "bob", name=first.name, selector=None) as second, second:
            assert (second.role, second.release, second.exporter_name) == ("driver", False, "rpi-1")
        assert telling_lab.controller.active() == [first.name]


async def test_a_role_that_is_taken_away_is_noticed(telling_lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with lease_of(telling_lab) as first, first:
        await first.svc.share_lease(first.name, "bob", "watcher")
        async with (
            lease_of(telling_lab, "bob", name=first.name, selector=None) as second,
            second,
            second.monitor_async(),
        ):
            await first.svc.share_lease(first.name, "bob", None)
            await until(lambda: second.lease_transferred)
    assert told(caplog, "lease of rpi-1 of client 'alice' is not shared with you any more")


async def test_a_lease_that_is_not_shared_is_refused_with_the_way_to_share_it(telling_lab: Any) -> None:
    telling_lab.controller.add("rpi-1", board="rpi")
    async with (
        lease_of(telling_lab) as first,
        first,
        lease_of(telling_lab, "bob", name=first.name, release=False) as second,
    ):
        with pytest.raises(LeaseError, match=f"belongs to client 'alice'.*jmp update lease {first.name} --share"):
            await second.request_async()


async def test_an_older_controller_shares_nothing(lab: Any) -> None:
    from jumpstarter.common.exceptions import ConnectionError

    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease:
        with pytest.raises(ConnectionError, match="doesn't know how to") as caught:
            await lease.svc.share_lease(lease.name, "bob", "driver")
    assert caught.value.status == "UNIMPLEMENTED"
