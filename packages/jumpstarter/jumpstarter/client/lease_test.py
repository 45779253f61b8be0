"""Leases against a controller and a router: granted, refused, cancelled, lost, and always given back."""

from __future__ import annotations

import logging
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import anyio
import grpc
import pytest
from anyio import create_task_group, fail_after
from anyio.from_thread import BlockingPortal

from jumpstarter.client import client as client_module
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.client.lease import DirectLease, Lease, new_lease_name
from jumpstarter.client.lease_watch import Clock, _next_look, deadline_of
from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.exceptions import ConnectionError, ExporterUnreachableError
from jumpstarter.config.serving import controller_channel
from jumpstarter.driver import Driver, export

HALF_HOUR = timedelta(minutes=30)
BOUND = 20


class Echo(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: str) -> str:
        return value


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
            await anyio.sleep(0.01)


# -- acquiring -----------------------------------------------------------------------------------


async def test_free_board_is_granted_and_given_back(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi", rack="7")
    async with lease_of(lab) as lease:
        async with lease:
            assert lease.exporter_name == "rpi-1"
            assert lease.exporter_labels == {"board": "rpi", "rack": "7"}
            assert lab.controller.active() == [lease.name]
        assert lab.controller.active() == []


async def test_waits_until_a_board_is_free(lab: Any) -> None:
    async with lease_of(lab) as lease, create_task_group() as tg:

        async def plug_in() -> None:
            await until(lambda: lab.faults.calls["GetLease"] >= 2)
            lab.controller.add("rpi-1", board="rpi")

        tg.start_soon(plug_in)
        with fail_after(BOUND):
            async with lease:
                assert lease.exporter_name == "rpi-1"


async def test_board_asked_for_by_name_is_granted(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.controller.add("rpi-2", board="rpi")
    async with lease_of(lab, selector=None, requested_exporter_name="rpi-2", tags={"job": "9"}) as lease, lease:
        assert lease.exporter_name == "rpi-2"
        assert lab.controller.leases[lease.name].tags == {"job": "9"}


async def test_timeout_gives_the_lease_back_and_says_what_was_waited_for(lab: Any) -> None:
    async with lease_of(lab, acquisition_timeout=0.3) as lease:
        with pytest.raises(
            LeaseError, match=r"no exporter was acquired within 0.3 s \(.*all boards are in use"
        ) as caught:
            await lease.request_async()
    assert isinstance(caught.value, TimeoutError)
    assert lab.controller.active() == []


async def test_cancelled_wait_gives_the_lease_back(lab: Any) -> None:
    async with lease_of(lab) as lease, create_task_group() as tg:
        tg.start_soon(lease.request_async)
        await until(lambda: lab.faults.calls["GetLease"] >= 1)
        tg.cancel_scope.cancel()
    assert len(lab.controller.leases) == 1
    assert lab.controller.active() == []


async def test_request_that_is_cancelled_before_its_answer_leaves_no_lease(lab: Any) -> None:
    lab.faults.hold["CreateLease"] = anyio.Event()
    async with lease_of(lab) as lease, create_task_group() as tg:
        tg.start_soon(lease.request_async)
        await until(lambda: lab.controller.leases)
        tg.cancel_scope.cancel()
    assert lab.controller.active() == []


async def test_request_whose_answer_gets_lost_leaves_no_lease(lab: Any) -> None:
    lab.faults.lose.add("CreateLease")
    async with lease_of(lab) as lease:
        with pytest.raises(ConnectionError, match="the answer got lost"):
            await lease.request_async()
    assert len(lab.controller.leases) == 1
    assert lab.controller.active() == []


async def test_controller_that_is_away_while_waiting_is_asked_again(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.faults.refuse["GetLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
    async with lease_of(lab) as lease, lease:
        assert lease.exporter_name == "rpi-1"


async def test_expired_token_ends_the_wait_at_once(lab: Any) -> None:
    lab.faults.refuse["GetLease"] = [(grpc.StatusCode.UNAVAILABLE, "token is expired")]
    async with lease_of(lab) as lease:
        with pytest.raises(ConnectionError, match="token is expired"):
            await lease.request_async()


async def test_refused_request_names_the_reason_and_releases_nothing(lab: Any) -> None:
    lab.faults.refuse["CreateLease"] = [(grpc.StatusCode.INVALID_ARGUMENT, "selector is malformed")]
    async with lease_of(lab) as lease:
        with pytest.raises(ConnectionError, match="selector is malformed"):
            await lease.request_async()
    assert lab.faults.calls["DeleteLease"] == 0


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("Unsatisfiable", "True", "cannot be satisfied: no such board"),
        ("Invalid", "True", "invalid: no such board"),
        ("Pending", "False", "not pending and not ready: no such board"),
        ("Ready", "False", "has ended"),
    ],
)
async def test_condition_against_the_lease_ends_the_wait(lab: Any, kind: str, status: str, text: str) -> None:
    lab.controller.schedule = lambda: None
    async with lease_of(lab) as lease, create_task_group() as tg:

        async def judge() -> None:
            await until(lambda: lab.controller.leases)
            (pending,) = lab.controller.leases.values()
            lab.controller._condition(pending, kind, status, "Released", "no such board")

        tg.start_soon(judge)
        with pytest.raises(LeaseError, match=text):
            await lease.request_async()
    assert lab.controller.active() == []


async def test_labels_that_cannot_be_had_are_no_obstacle(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.faults.refuse["GetExporter"] = [(grpc.StatusCode.PERMISSION_DENIED, "not yours")]
    async with lease_of(lab) as lease, lease:
        assert lease.exporter_labels == {}
    assert "not yours" in caplog.text


# -- existing leases -----------------------------------------------------------------------------


async def test_existing_lease_is_used_and_kept(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as first, first:
        async with lease_of(lab, name=first.name, release=False, selector=None) as second, second:
            assert second.exporter_name == "rpi-1"
        assert lab.controller.active() == [first.name]


@pytest.mark.parametrize("written", ["rack=7,board=rpi", "board = rpi , rack=7", "board in (rpi),rack==7"])
async def test_existing_lease_with_the_same_selector_written_otherwise_is_used(lab: Any, written: str) -> None:
    lab.controller.add("rpi-1", board="rpi", rack="7")
    async with (
        lease_of(lab, selector="board=rpi,rack=7") as first,
        first,
        lease_of(lab, name=first.name, release=False, selector=written) as second,
        second,
    ):
        assert second.name == first.name


async def test_existing_lease_with_another_selector_is_left_alone_and_the_new_one_given_back(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.controller.add("imx-1", board="imx")
    async with lease_of(lab) as first, first:
        async with lease_of(lab, name=first.name, release=False, selector="board=imx") as second, second:
            assert second.exporter_name == "imx-1"
            assert len(lab.controller.active()) == 2
        assert lab.controller.active() == [first.name]


async def test_lease_of_another_client_is_refused(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as first, first:
        async with lease_of(lab, "bob", name=first.name, release=False) as second:
            with pytest.raises(LeaseError, match="belongs to client 'alice'"):
                await second.request_async()
        assert lab.controller.active() == [first.name]


async def test_ended_lease_is_refused(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as first, first:
        pass
    async with lease_of(lab, name=first.name, release=False) as second:
        with pytest.raises(LeaseError, match="has ended"):
            await second.request_async()


async def test_unknown_lease_is_refused(lab: Any) -> None:
    async with lease_of(lab, name="nothing", release=False) as lease:
        with pytest.raises(ConnectionError, match="not found"):
            await lease.request_async()


# -- giving back ---------------------------------------------------------------------------------


async def test_release_is_repeated_while_the_controller_is_away(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.faults.refuse["DeleteLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")]
    async with lease_of(lab) as lease, lease:
        pass
    assert lab.controller.active() == []


async def test_second_release_is_no_error(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease:
        await lease.svc.DeleteLease(name=lease.name)
    assert lab.controller.active() == []


async def test_release_over_a_channel_that_was_closed_is_no_error(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease:
        await lease.channel.close()
    assert "could not be released and ends by its duration" in caplog.text


async def test_error_of_the_body_gives_the_lease_back_and_comes_out_as_it_is(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    with pytest.raises(ZeroDivisionError):
        async with lease_of(lab) as lease, lease:
            raise ZeroDivisionError
    assert lab.controller.active() == []


async def test_refreshed_channel_is_used_from_then_on(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease:
        lab.controller.tokens["new-token"] = "alice"
        async with await controller_channel("Client", lab.client(token="new-token")) as channel, lease:
            del lab.controller.tokens["alice-token"]
            with pytest.raises(ConnectionError, match="token is not valid"):
                await lease.get()
            lease.refresh_channel(channel)
            assert (await lease.get()).name == lease.name
    assert lab.controller.active() == []


# -- connecting ----------------------------------------------------------------------------------


async def test_calls_go_through_the_router(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    with ExitStack() as stack, fail_after(BOUND):
        async with (
            lab.exporter("rpi-1", Echo()),
            lease_of(lab) as lease,
            lease,
            lease.connect_async(stack) as client,
        ):
            assert await client.call_async("echo", "hello") == "hello"
            assert lab.router.paired == 1


async def test_listening_alone_dials_nothing(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lab.exporter("rpi-1", Echo()), lease_of(lab) as lease, lease, lease.serve_unix_async():
        assert lab.faults.calls["Dial"] == 0
        assert lab.router.waiting == {}


async def test_exporter_that_is_not_ready_yet_is_dialled_again(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.faults.refuse["Dial"] = [
        (grpc.StatusCode.FAILED_PRECONDITION, "exporter is not ready"),
        (grpc.StatusCode.UNAVAILABLE, "not listening"),
    ]
    with ExitStack() as stack, fail_after(BOUND):
        async with (
            lab.exporter("rpi-1", Echo()),
            lease_of(lab) as lease,
            lease,
            lease.connect_async(stack) as client,
        ):
            assert await client.call_async("echo", "hello") == "hello"


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        ((grpc.StatusCode.FAILED_PRECONDITION, "exporter is offline"), "exporter is offline"),
        ((grpc.StatusCode.UNKNOWN, "Permission denied"), "belongs to another client now"),
    ],
)
async def test_exporter_that_cannot_be_reached_says_why(lab: Any, refusal: Any, text: str) -> None:
    lab.controller.add("rpi-1", board="rpi")
    lab.faults.refuse["Dial"] = [refusal] * 5
    with ExitStack() as stack, fail_after(BOUND):
        async with lease_of(lab) as lease, lease:
            with pytest.raises(ExporterUnreachableError, match=text):
                async with lease.connect_async(stack):
                    pytest.fail("connected")
            transferred = lease.lease_transferred
    assert transferred == ("another client" in text)


async def test_exporter_that_lets_nobody_come_while_its_hook_runs_is_waited_for(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PATIENCE_INTERVAL", 0.01)
    lab.controller.add("rpi-1", board="rpi")
    lab.controller.boards["rpi-1"].status = ExporterStatus.BEFORE_LEASE_HOOK.to_proto()
    lab.faults.refuse["Dial"] = [(grpc.StatusCode.FAILED_PRECONDITION, "not now")] * 2
    with ExitStack() as stack, fail_after(BOUND):
        async with (
            lab.exporter("rpi-1", Echo()),
            lease_of(lab) as lease,
            lease,
            lease.connect_async(stack) as client,
        ):
            assert await client.call_async("echo", "hello") == "hello"
    assert lab.faults.refuse["Dial"] == []


async def test_dialling_is_given_up_in_time_with_the_last_reason(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    with ExitStack() as stack, fail_after(BOUND):
        async with lease_of(lab, dial_timeout=0.5) as lease, lease:
            with pytest.raises(ExporterUnreachableError, match=r"within 0\.5 s: the exporter is not listening"):
                async with lease.connect_async(stack):
                    pytest.fail("connected")


async def test_failed_connection_leaves_the_others_alone(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    with ExitStack() as stack, fail_after(BOUND):
        async with lab.exporter("rpi-1", Echo()), lease_of(lab) as lease, lease, lease.serve_unix_async() as path:
            from jumpstarter.client.client import client_from_path

            async with client_from_path(path, lease.portal, stack, allow=[], unsafe=True, leased=True) as client:
                lab.faults.refuse["Dial"] = [(grpc.StatusCode.FAILED_PRECONDITION, "offline")]
                async with await anyio.connect_unix(path) as doomed:
                    with pytest.raises(anyio.EndOfStream):
                        await doomed.receive()
                assert await client.call_async("echo", "still here") == "still here"


async def test_connection_outlives_the_controller(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    with ExitStack() as stack, fail_after(BOUND):
        async with (
            lease_of(lab, release=False) as lease,
            lab.exporter("rpi-1", Echo()),
            lease,
            lease.connect_async(stack) as client,
        ):
            assert await client.call_async("echo", "before") == "before"
            for name in ("GetLease", "Dial"):
                lab.faults.refuse[name] = [(grpc.StatusCode.UNAVAILABLE, "away")] * 100
            assert await client.call_async("echo", "after") == "after"


# -- watching ------------------------------------------------------------------------------------


async def test_monitor_tells_of_the_end_near_and_come(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    told: list[timedelta] = []
    async with lease_of(lab, duration=timedelta(seconds=2)) as lease, lease:
        lease.lease_ending_callback = lambda _lease, left: told.append(left)
        async with lease.monitor_async(threshold=timedelta(minutes=5)):
            await until(lambda: len(told) == 1)
            assert timedelta(0) < told[0] <= timedelta(seconds=2)
            assert not lease.lease_ended
            lab.controller.end(lease.name, "Expired")
            await until(lambda: lease.lease_ended)
    assert told[1:] == [timedelta(0)]


async def test_monitor_goes_on_when_the_controller_is_away(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab, duration=timedelta(seconds=1)) as lease, lease, lease.monitor_async():
        await until(lambda: lab.faults.calls["GetLease"] >= 2)
        lab.faults.refuse["GetLease"] = [(grpc.StatusCode.UNAVAILABLE, "restarting")]
        await until(lambda: "can't be watched for now" in caplog.text)
        lab.controller.end(lease.name)
        await until(lambda: lease.lease_ended)


async def test_lease_that_the_controller_does_not_know_any_more_has_ended(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease, lease.monitor_async():
        lab.controller.leases.clear()
        await until(lambda: lease.lease_ended)


async def test_lease_that_was_handed_over_is_noticed_and_left_to_its_new_owner(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease:
        await lease.svc.UpdateLease(name=lease.name, client="bob")
        async with lease.monitor_async():
            await until(lambda: lease.lease_transferred)
    assert lab.controller.active() == [lease.name]
    assert lab.faults.calls["DeleteLease"] == 0


async def test_failing_callback_does_not_end_the_watch(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.controller.add("rpi-1", board="rpi")

    def fail(lease: Any, left: timedelta) -> None:
        raise RuntimeError("cannot beep")

    async with lease_of(lab) as lease, lease:
        lease.lease_ending_callback = fail
        async with lease.monitor_async():
            lab.controller.end(lease.name)
            await until(lambda: lease.lease_ended)
            await until(lambda: "cannot beep" in caplog.text)


@pytest.mark.parametrize(
    ("left", "wait"), [(3600, 30), (310, 10), (200, 30), (12, 12), (0.2, 1), (-5, 1)], ids=lambda value: str(value)
)
def test_lease_is_looked_at_when_something_is_due(left: float, wait: float) -> None:
    assert _next_look(left, threshold=300) == wait


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall = datetime(2030, 1, 1, tzinfo=UTC)

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.seconds, wall=lambda: self.wall)


def test_clock_places_times_of_a_controller_whose_clock_agrees() -> None:
    time = FakeTime()
    clock = time.clock()
    clock.observe(time.wall - timedelta(seconds=3), within=4)
    assert clock.at(time.wall + timedelta(minutes=1)) == 1060


@pytest.mark.parametrize("ahead", [timedelta(hours=-2), timedelta(minutes=5)])
def test_clock_places_times_of_a_controller_whose_clock_differs(ahead: timedelta) -> None:
    time = FakeTime()
    clock = time.clock()
    clock.observe(time.wall + ahead, within=1)
    assert clock.at(time.wall + ahead + timedelta(minutes=30)) == 1000 + 1800


async def test_end_is_told_by_the_duration_although_clocks_differ(lab: Any) -> None:
    lab.controller.ahead = timedelta(hours=3)
    lab.controller.add("rpi-1", board="rpi")
    async with lease_of(lab) as lease, lease:
        deadline = deadline_of(await lease.get(), lease._clock)
        assert deadline is not None
        assert deadline - lease._clock.monotonic() == pytest.approx(HALF_HOUR.total_seconds(), abs=5)


# -- names, blocking, direct ---------------------------------------------------------------------


def test_names_are_uuids_of_version_7_that_sort_by_age() -> None:
    early = UUID(new_lease_name())
    assert (early.version, early.variant) == (7, "specified in RFC 4122")
    assert early.int >> 80 <= UUID(new_lease_name()).int >> 80


def test_blocking_code_holds_a_lease_and_calls(threaded_lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lab = threaded_lab
    lab.controller.add("rpi-1", board="rpi")
    with (
        lab.portal.wrap_async_context_manager(lab.exporter("rpi-1", Echo())),
        lab.client().lease(selector="board=rpi") as lease,
        lease.monitor(),
        lease.connect() as client,
    ):
        assert client.call("echo", "hello") == "hello"
    assert lab.controller.active() == []


async def test_direct_lease_connects_without_a_controller() -> None:
    from jumpstarter.exporter.session import Session

    with ExitStack() as stack, Session(root_device=Echo()) as session:
        async with session.serve_tcp_async("127.0.0.1", 0) as port, BlockingPortal() as portal:
            lease = DirectLease(address=f"127.0.0.1:{port}", portal=portal, allow=[], unsafe=True, insecure=True)
            async with lease.monitor_async(), lease.serve_unix_async() as address:
                assert address == f"127.0.0.1:{port}"
            async with lease.connect_async(stack) as client:
                assert await client.call_async("echo", "hello") == "hello"
    assert (lease.name, lease.exporter_name, lease.release) == ("direct", "direct", False)


def test_passphrase_is_not_in_the_text_of_a_direct_lease() -> None:
    portal: Any = SimpleNamespace()
    lease = DirectLease(address="h:1", portal=portal, allow=[], unsafe=False, passphrase="sesame")
    assert "sesame" not in repr(lease)
