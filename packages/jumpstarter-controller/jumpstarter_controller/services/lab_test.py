"""Following leases and exporters, sharing, reports of use."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from jumpstarter_protocol import lab_pb2

from ..model.records import ExporterStatus, Rule
from ..model.selector import Selector
from ..scripted import PARENT, Messages, delete, lease_key, lease_of, reason, refusal, scripted_exporter
from ..testing import SERVER, RunningLab, Stubs, running_lab


def watch(client: Stubs, lease: str) -> Messages:
    return Messages(client.lab.WatchLease(lab_pb2.WatchLeaseRequest(name=f"{PARENT}/leases/{lease}")))


def watch_leases(stubs: Stubs, /, **fields: Any) -> Messages:
    return Messages(stubs.lab.WatchLeases(lab_pb2.WatchLeasesRequest(parent=PARENT, **fields)))


def watch_exporters(client: Stubs, **fields: Any) -> Messages:
    return Messages(client.lab.WatchExporters(lab_pb2.WatchExportersRequest(parent=PARENT, **fields)))


async def until(messages: Messages, condition: Any) -> Any:
    """Return the first message that is as wanted."""
    while True:
        message = await messages.next()
        if condition(message):
            return message


# -- one lease -----------------------------------------------------------------------------------------------


async def test_waiting_client_sees_its_place_who_holds_the_exporter_and_the_grant(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, _):
        held = await lease_of(alice)
        first, second = await lease_of(bob), await lease_of(bob)
        watching = watch(bob, second)
        state = await watching.next()
        assert (state.place, state.waiting, state.ended) == (2, 2, False)
        assert [(h.exporter, h.client, h.lease) for h in state.holders] == [("board", "alice", held)]
        assert state.holders[0].until.ToDatetime() > state.now.ToDatetime()
        assert state.reason
        await delete(bob, first)
        state = await until(watching, lambda state: state.place == 1)
        await delete(alice, held)
        state = await until(watching, lambda state: state.lease.exporter)
        assert (state.place, state.lease.conditions[-1].type) == (0, "Ready")
        assert state.until.ToDatetime() > state.now.ToDatetime()
        assert state.role == lab_pb2.ROLE_OWNER
        await delete(bob, second)
        state = await until(watching, lambda state: state.ended)
        assert state.lease.conditions[-1].reason == "Released"
        with pytest.raises(EOFError):
            await watching.next()
        assert exporter.record.lease == ""


async def test_watching_an_ended_lease_tells_so_and_ends(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab):
        name = await lease_of(alice)
        await delete(alice, name)
        watching = watch(bob, name)
        state = await watching.next()
        assert (state.ended, state.role) == (True, lab_pb2.ROLE_UNSPECIFIED)
        with pytest.raises(EOFError):
            await watching.next()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(bob, "missing").next()
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")


async def test_T23_request_of_a_client_that_died_while_waiting_is_cancelled(tmp_path: Path, one_loop: None) -> None:
    async with (
        running_lab(tmp_path, leases={"pending_grace": "PT0.3S"}) as lab,
        (await lab.client("alice")).stubs() as alice,
        (await lab.client("bob")).stubs() as bob,
        scripted_exporter(lab),
    ):
        await lease_of(alice)
        name, kept = await lease_of(bob), await lease_of(bob)
        dying, living = watch(bob, name), watch(bob, kept)
        await dying.next()
        await living.next()
        dying.cancel()
        lease = await lab.until(lease_key(name), lambda lease: lease.ended)
        assert lease.exporter == ""
        assert lab.lab.active_lease(lease_key(kept)) is not None
        living.cancel()


# -- lists -----------------------------------------------------------------------------------------------------


async def test_following_leases_tells_all_then_current_then_changes(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab):
        first = await lease_of(alice, tags={"team": "red"})
        watching, mine = watch_leases(bob), watch_leases(bob, client="bob")
        red = watch_leases(bob, tag_filter="team=red")
        for messages in (watching, red):
            event = await messages.next()
            assert (event.type, event.state.lease.name) == (lab_pb2.EVENT_TYPE_PUT, f"{PARENT}/leases/{first}")
        for messages in (watching, mine, red):
            assert (await messages.next()).type == lab_pb2.EVENT_TYPE_CURRENT
        second = await lease_of(bob)
        for messages in (watching, mine):
            event = await until(messages, lambda event: event.state.lease.name.endswith(second))
            assert event.type == lab_pb2.EVENT_TYPE_PUT
        await delete(alice, first)
        for messages in (watching, red):
            event = await until(messages, lambda event: event.type == lab_pb2.EVENT_TYPE_DELETED)
            assert (event.state.lease.name, event.state.ended) == (f"{PARENT}/leases/{first}", True)
        assert await red.silent()
        listed = await bob.lab.ListLeaseStates(lab_pb2.WatchLeasesRequest(parent=PARENT, only_active=False))
        assert {state.lease.name.rpartition("/")[2] for state in listed.states} == {first, second}


async def test_following_exporters_tells_all_then_current_then_changes(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("idle", labels={"board": "x"})
    async with scripted_exporter(lab, labels={"board": "y"}) as (exporter, status):
        watching, only = watch_exporters(alice), watch_exporters(alice, filter="board=y")
        names = [(await watching.next()).state.exporter.name for _ in range(2)]
        assert names == [f"{PARENT}/exporters/board", f"{PARENT}/exporters/idle"]
        assert (await only.next()).state.exporter.name == names[0]
        for messages in (watching, only):
            assert (await messages.next()).type == lab_pb2.EVENT_TYPE_CURRENT
        name = await lease_of(alice)
        await status.next()
        event = await until(only, lambda event: event.state.lease)
        assert (event.state.lease, event.state.client) == (name, "alice")
        assert event.state.until.ToDatetime() > event.state.since.ToDatetime()
        await delete(alice, name)
        await until(only, lambda event: not event.state.lease)
        await lab.lab.delete_account(SERVER, exporter.login.key)
        event = await until(only, lambda event: event.type == lab_pb2.EVENT_TYPE_DELETED)
        assert event.state.exporter.name == names[0]
        states = await alice.lab.ListExporterStates(lab_pb2.WatchExportersRequest(parent=PARENT))
        assert [state.exporter.name for state in states.states] == [names[1]]


# -- sharing -----------------------------------------------------------------------------------------------------


async def test_sharing_is_for_owners_in_roles_that_can_be_given(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab, roles=True):
        name = await lease_of(alice)

        async def share(stubs: Stubs, client: str, role: Any) -> Any:
            request = lab_pb2.ShareLeaseRequest(name=f"{PARENT}/leases/{name}", client=client, role=role)
            return await stubs.lab.ShareLease(request)

        for stubs, client, role, code in (
            (bob, "bob", lab_pb2.ROLE_DRIVER, "PERMISSION_DENIED"),
            (alice, "bob", lab_pb2.ROLE_OWNER, "INVALID_ARGUMENT"),
            (alice, "bob", 99, "INVALID_ARGUMENT"),
            (alice, "", lab_pb2.ROLE_DRIVER, "INVALID_ARGUMENT"),
        ):
            assert (await refusal(share(stubs, client, role)))[0] == code
        assert (await refusal(share(alice, "nobody", lab_pb2.ROLE_DRIVER)))[0] != "OK"
        watching = watch(bob, name)
        assert (await watching.next()).role == lab_pb2.ROLE_UNSPECIFIED
        await share(alice, "bob", lab_pb2.ROLE_WATCHER)
        state = await until(watching, lambda state: state.role)
        assert (state.role, dict(state.shares)) == (lab_pb2.ROLE_WATCHER, {"bob": lab_pb2.ROLE_WATCHER})


# -- exporters ---------------------------------------------------------------------------------------------------


async def test_reports_of_use_are_audited_once_and_put_off_the_idle_end(lab: RunningLab, alice: Stubs) -> None:
    await lab.policy("all", Rule(clients=(Selector(),), idle_timeout=timedelta(seconds=20)))
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        before = (await watch(alice, name).next()).idle_until.ToDatetime()
        request = lab_pb2.ReportUseRequest(
            lease_name=name,
            sequence=1,
            in_use=True,
            uses=[lab_pb2.Use(client="alice", driver="power", method="on", kind="call", outcome="OK", count=3)],
        )
        for _ in range(3):
            answer = await exporter.stubs.lab.ReportUse(request)
            assert answer.interval.ToTimedelta() == timedelta(seconds=5)
        assert (await watch(alice, name).next()).idle_until.ToDatetime() >= before
        request.sequence, request.dropped = 2, 7
        await exporter.stubs.lab.ReportUse(request)
        entries: list[Any] = []
        while len(entries) < 3:
            entries = list(await lab.lab.read_audit(lease=name, action="driver."))
        assert [entry.action for entry in entries] == ["driver.call", "driver.call", "driver.dropped"]
        assert entries[0].details["method"] == "on"
        assert (entries[0].client, entries[0].exporter, entries[0].details["count"]) == ("alice", "board", "3")


async def test_reports_of_use_of_other_exporters_are_refused(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab), scripted_exporter(lab, "other") as (other, _):
        name = await lease_of(alice)
        for lease, code in ((name, "FAILED_PRECONDITION"), ("missing", "NOT_FOUND")):
            report = other.stubs.lab.ReportUse(lab_pb2.ReportUseRequest(lease_name=lease))
            assert (await refusal(report))[0] == code


async def test_draining_exporter_keeps_its_lease_and_gets_no_other(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        first = await lease_of(alice)
        assert (await status.next()).leased
        await exporter.report(ExporterStatus.LEASE_READY)
        await exporter.stubs.lab.Drain(lab_pb2.DrainRequest(draining=True, reason="repair"))
        second = await lease_of(alice)
        states = await alice.lab.ListExporterStates(lab_pb2.WatchExportersRequest(parent=PARENT))
        assert [(state.draining, state.lease) for state in states.states] == [(True, first)]
        await delete(alice, first)
        assert not (await status.next()).leased
        await exporter.report(ExporterStatus.AVAILABLE)
        assert await status.silent()
        await exporter.stubs.lab.Drain(lab_pb2.DrainRequest(draining=False))
        assert (await status.next()).lease_name == second


async def test_list_of_leases_says_what_the_filter_lacks_when_it_is_none(alice: Stubs) -> None:
    request = lab_pb2.WatchLeasesRequest(parent=PARENT, filter="a=(")
    code, details = await refusal(alice.lab.ListLeaseStates(request))
    assert (code, "filter" in details) == ("INVALID_ARGUMENT", True)
