"""What exporters tell and are told: registering, statuses, leases, releasing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import grpc
import pytest
from jumpstarter_protocol import client_pb2, jumpstarter_pb2

from ..model.records import ExporterStatus
from ..scripted import PARENT, ScriptedExporter, delete, lease_key, lease_of, refusal, scripted_exporter
from ..testing import SERVER, Login, RunningLab, Stubs
from . import controller


async def registered(lab: RunningLab, name: str, stubs: Stubs, login: Login) -> ScriptedExporter:
    exporter = ScriptedExporter(lab, login, stubs)
    await exporter.register()
    return exporter


# -- registering and reporting --------------------------------------------------------------------


async def test_R02_registering_replaces_labels_of_the_prefix_and_nothing_else(lab: RunningLab) -> None:
    labels = {"rack": "3", "jumpstarter.dev/old": "x"}
    login = await lab.exporter("board", labels=labels)
    async with login.stubs() as stubs:
        exporter = ScriptedExporter(lab, login, stubs)
        uuid = await exporter.register({"jumpstarter.dev/new": "y", "rack": "4", "foreign": "z"}, devices=2)
    record = exporter.record
    assert record.meta.labels == {"rack": "3", "jumpstarter.dev/new": "y"}
    assert uuid == record.meta.uid != ""
    assert record.registered
    assert len(record.devices) == 2


@pytest.mark.parametrize("number", range(9))
async def test_R03_reported_statuses_are_kept_and_decide_about_online(lab: RunningLab, number: int) -> None:
    async with scripted_exporter(lab) as (exporter, _):
        await exporter.report(99 if number == 8 else number, "words")
        known = ["Unspecified", "Offline", "Available", "BeforeLeaseHook", "LeaseReady", "AfterLeaseHook"]
        known += ["BeforeLeaseHookFailed", "AfterLeaseHookFailed", "Unspecified"]
        assert (exporter.record.status, exporter.record.status_message) == (known[number], "words")
        if number == 1:
            await lab.until(exporter.login.key, lambda record: not record.online)
        elif number in range(2, 8):
            await lab.until(exporter.login.key, lambda record: record.online)


@pytest.mark.parametrize("reason", ["", "maintenance"])
async def test_R04_unregistering_takes_the_devices_and_says_offline(lab: RunningLab, reason: str) -> None:
    async with scripted_exporter(lab) as (exporter, _):
        await exporter.stubs.controller.Unregister(jumpstarter_pb2.UnregisterRequest(reason=reason))
        record = exporter.record
        assert (record.online, record.registered, record.devices) == (False, False, ())
        assert reason in record.status_message
        assert record.status_message


async def test_R01_exporter_that_starts_is_online_registered_and_free(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab, labels={"board": "rpi"}):
        request = client_pb2.ListExportersRequest(parent=PARENT)
        exporters = (await alice.client.ListExporters(request)).exporters
        assert [(e.name, e.online, e.status, e.enabled) for e in exporters] == [
            (f"{PARENT}/exporters/board", True, 2, True)
        ]


async def test_register_with_too_many_devices_is_refused_before_anything_changed(lab: RunningLab) -> None:
    login = await lab.exporter()
    async with login.stubs() as stubs:
        exporter = ScriptedExporter(lab, login, stubs)
        status, details = await refusal(exporter.register(devices=5000))
        assert status == "INVALID_ARGUMENT"
        assert "4096" in details
        assert not exporter.record.registered


# -- the Status stream -------------------------------------------------------------------------------


async def test_R05_first_message_comes_at_once_and_then_silence(lab: RunningLab) -> None:
    async with scripted_exporter(lab) as (exporter, _):
        status = exporter.status()
        first = await status.next()
        assert (first.leased, first.HasField("lease_name"), first.HasField("client_name")) == (False, False, False)
        await exporter.report(ExporterStatus.AVAILABLE, "still here")
        assert await status.silent()


async def test_lease_is_announced_with_its_client_and_its_end(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (_, status):
        name = await lease_of(alice)
        begin = await status.next()
        assert (begin.leased, begin.lease_name, begin.client_name) == (True, name, "alice")
        await delete(alice, name)
        assert not (await status.next()).leased


async def test_R09_exporter_is_told_the_context_of_its_lease_and_none_without(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab) as (_, status):
        first = await lease_of(alice, context={"build": "1234"})
        assert dict((await status.next()).context) == {"build": "1234"}
        await lease_of(bob)
        await delete(alice, first)
        assert dict((await status.next()).context) == {}
        following = await status.next()
        assert (following.leased, dict(following.context)) == (True, {})


async def test_between_two_leases_the_stream_says_that_there_is_none(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    """A queued lease follows at once, but 0.9 exporters have to see the gap."""
    async with scripted_exporter(lab) as (_, status):
        first = await lease_of(alice)
        assert (await status.next()).lease_name == first
        second = await lease_of(bob)
        await delete(alice, first)
        assert not (await status.next()).leased
        follower = await status.next()
        assert (follower.lease_name, follower.client_name) == (second, "bob")


async def test_when_the_client_hears_that_its_lease_has_ended_the_exporter_was_told(
    lab: RunningLab, alice: Stubs
) -> None:
    async with scripted_exporter(lab) as (_, status):
        for _ in range(20):
            name = await lease_of(alice)
            await status.next()
            await delete(alice, name)
            assert not (await status.next(seconds=1)).leased


async def test_ended_lease_is_never_announced_again_on_a_new_stream(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        assert (await status.next()).leased
        await delete(alice, name)
        for _ in range(5):
            again = exporter.status()
            assert not (await again.next()).leased
            assert await again.silent(0.05)


async def test_T17_transfer_is_the_same_lease_with_another_client(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        await exporter.report(ExporterStatus.LEASE_READY)
        await alice.client.UpdateLease(
            client_pb2.UpdateLeaseRequest(
                lease=client_pb2.Lease(name=f"{PARENT}/leases/{name}", client=f"{PARENT}/clients/bob")
            )
        )
        told = await status.next()
        assert (told.leased, told.lease_name, told.client_name) == (True, name, "bob")
        # The former owner learns it in the words that 0.9 clients look for, and the new one may dial.
        exporter.listen(name)
        status_code, details = await refusal(alice.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name)))
        assert (status_code, details.startswith("permission denied")) == ("UNKNOWN", True)
        assert (await bob.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))).router_token


async def test_R08_exporter_that_never_reports_is_leasable_again_after_a_lost_connection(
    lab: RunningLab, alice: Stubs
) -> None:
    login = await lab.exporter("old")
    async with login.stubs() as stubs:
        exporter = await registered(lab, "old", stubs, login)
        for _ in range(2):
            status = exporter.status()
            assert not (await status.next()).leased
            await lab.until(login.key, lambda record: record.online)
            name = await lease_of(alice, exporter="old")
            assert (await status.next()).lease_name == name
            exporter.listen(name)
            assert (await alice.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))).router_endpoint
            await delete(alice, name)
            status.cancel()
            await lab.until(login.key, lambda record: not record.online)


async def test_R07_lost_exporter_is_offline_soon_and_available_again_when_it_is_back(
    lab: RunningLab, alice: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        status.cancel()
        await lab.until(exporter.login.key, lambda record: not record.online)
        name = f"{PARENT}/exporters/board"
        shown = await alice.client.GetExporter(client_pb2.GetExporterRequest(name=name))
        assert (shown.online, shown.status, shown.status_message) == (False, 1, "connection lost")
        exporter.status()
        await lab.until(exporter.login.key, lambda record: record.online)
        shown = await alice.client.GetExporter(client_pb2.GetExporterRequest(name=name))
        assert (shown.online, shown.status, shown.status_message) == (True, 2, "")


async def test_R10_exporter_in_a_hook_gets_no_lease_because_it_connects_again(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        await exporter.report(ExporterStatus.AFTER_LEASE_HOOK)
        status.cancel()
        await lab.until(exporter.login.key, lambda record: not record.online)
        status = exporter.status()
        assert not (await status.next()).leased
        await lab.until(exporter.login.key, lambda record: record.online)
        name = await lease_of(alice)
        assert await status.silent()
        await exporter.report(ExporterStatus.AVAILABLE)
        assert (await status.next()).lease_name == name


@pytest.mark.parametrize("roles", [False, True], ids=["published", "ours"])
async def test_exporter_whose_hook_failed_gets_no_lease_while_it_may_give_back_the_wrong_one(
    lab: RunningLab, alice: Stubs, monkeypatch: pytest.MonkeyPatch, roles: bool
) -> None:
    monkeypatch.setattr(controller, "SETTLING", 0.5)
    async with scripted_exporter(lab, roles=roles) as (exporter, status):
        first = await lease_of(alice)
        await status.next()
        monkeypatch.setattr(controller, "GIVES_BACK", 0.0)
        await exporter.report(ExporterStatus.BEFORE_LEASE_HOOK_FAILED)
        await delete(alice, first)
        began = anyio.current_time()

        await exporter.report(ExporterStatus.AVAILABLE)

        assert (anyio.current_time() - began > 0.4) is not roles
        assert exporter.record.status is ExporterStatus.AVAILABLE


@pytest.mark.parametrize(
    "failed", [ExporterStatus.BEFORE_LEASE_HOOK_FAILED, ExporterStatus.AFTER_LEASE_HOOK_FAILED], ids=str
)
async def test_client_leaves_it_to_a_published_exporter_to_give_back_a_lease_whose_hook_failed(
    lab: RunningLab, alice: Stubs, failed: ExporterStatus
) -> None:
    async with scripted_exporter(lab) as (exporter, status), anyio.create_task_group() as tasks:
        name = await lease_of(alice)
        await status.next()
        await exporter.report(failed)
        tasks.start_soon(delete, alice, name)
        with anyio.move_on_after(0.3) as early:
            await status.next()
        assert early.cancelled_caught, "the lease has ended already"
    assert lab.lab.active_lease(lease_key(name)) is None


@pytest.mark.parametrize(
    ("message", "ends"),
    [("Exporter shutting down due to beforeLease hook failure", True), ("Exporter shutting down", False)],
)
async def test_H03_lease_of_a_published_exporter_that_gives_up_ends_and_that_of_one_that_restarts_stays(
    lab: RunningLab, alice: Stubs, message: str, ends: bool
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        await exporter.report(ExporterStatus.BEFORE_LEASE_HOOK)

        await exporter.report(ExporterStatus.OFFLINE, message)

        assert (lab.lab.active_lease(lease_key(name)) is None) is ends
        assert exporter.record.status is ExporterStatus.OFFLINE


async def test_status_that_comes_while_an_older_one_is_held_back_is_the_last(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "SETTLING", 0.5)
    async with scripted_exporter(lab) as (exporter, _), anyio.create_task_group() as tasks:
        await exporter.report(ExporterStatus.BEFORE_LEASE_HOOK_FAILED)
        tasks.start_soon(exporter.report, ExporterStatus.AVAILABLE)
        await anyio.wait_all_tasks_blocked()
        await exporter.report(ExporterStatus.OFFLINE)
        tasks.cancel_scope.deadline = anyio.current_time() + 10
    assert exporter.record.status is ExporterStatus.OFFLINE


async def test_R13_exporter_that_restarts_is_told_its_lease_again(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        status.cancel()
        # The process is a new one: it registers, and reports AVAILABLE although its lease is still on.
        await exporter.register()
        await exporter.report(ExporterStatus.AVAILABLE)
        again = exporter.status()
        told = await again.next()
        assert (told.leased, told.lease_name) == (True, name)
        await exporter.report(ExporterStatus.LEASE_READY)
        listener = exporter.listen(name)
        token = (await alice.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name))).router_token
        assert token
        assert (await listener.next()).router_token


async def test_L18_client_that_waits_gets_the_exporter_when_it_comes(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("board")
    name = await lease_of(alice)
    async with scripted_exporter(lab) as (exporter, _):
        lease = await lab.until(lease_key(name), lambda lease: lease.exporter)
        assert lease.exporter == exporter.name


async def test_deleted_exporter_is_told_and_refused(lab: RunningLab) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        await lab.lab.delete_account(SERVER, exporter.login.key)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status.next()
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert (await refusal(exporter.register()))[0] == "UNKNOWN"


# -- releasing -----------------------------------------------------------------------------------------


async def test_T20_exporter_releases_its_own_lease_and_no_other(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status), scripted_exporter(lab, "other") as (other, _):
        own = await lease_of(alice)
        await status.next()
        foreign = await lease_of(bob, exporter="other")
        pending = await lease_of(bob)

        async def release(name: str) -> Any:
            return await exporter.stubs.controller.ReleaseLease(jumpstarter_pb2.ReleaseLeaseRequest(name=name))

        assert (await refusal(release(foreign)))[0] == "FAILED_PRECONDITION"
        assert (await refusal(release(pending)))[0] == "FAILED_PRECONDITION"
        assert (await refusal(release("missing")))[0] == "NOT_FOUND"
        assert (await refusal(release("")))[0] == "NOT_FOUND"
        assert lab.lab.active_lease(lease_key(own)) is not None
        await release(own)
        assert lab.lab.active_lease(lease_key(own)) is None
        await release(own)
        assert other.record.lease == foreign


async def test_T21_release_with_a_report_ends_the_own_lease_or_nothing(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status), scripted_exporter(lab, "other") as (other, _):
        foreign = await lease_of(alice, exporter="other")
        await exporter.report(ExporterStatus.AVAILABLE, release=True)
        assert lab.lab.active_lease(lease_key(foreign)) is not None
        own = await lease_of(alice)
        assert (await status.next()).leased
        await exporter.report(ExporterStatus.AVAILABLE, release=True)
        assert lab.lab.active_lease(lease_key(own)) is None
        assert not (await status.next()).leased
        assert other.record.lease == foreign


async def test_T19_client_releases_twice_and_deletes_twice(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab):
        name = await lease_of(alice)
        request = jumpstarter_pb2.ReleaseLeaseRequest(name=name)
        status, details = await refusal(bob.controller.ReleaseLease(request))
        assert (status, "ReleaseLease permission denied" in details) == ("UNKNOWN", True)
        await alice.controller.ReleaseLease(request)
        await alice.controller.ReleaseLease(request)
        status, details = await refusal(delete(alice, name))
        assert (status, "released" in details) == ("FAILED_PRECONDITION", True)


# -- old clients ---------------------------------------------------------------------------------------


async def test_calls_of_old_clients_request_show_list_and_release(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab, labels={"board": "rpi"}) as (exporter, _):
        request = jumpstarter_pb2.RequestLeaseRequest()
        request.duration.FromTimedelta(timedelta(minutes=5))
        request.selector.match_labels["board"] = "rpi"
        name = (await alice.controller.RequestLease(request)).name
        lease = await alice.controller.GetLease(jumpstarter_pb2.GetLeaseRequest(name=name))
        assert (lease.duration.seconds, dict(lease.selector.match_labels)) == (300, {"board": "rpi"})
        assert lease.exporter_uuid == exporter.record.meta.uid
        assert lease.conditions[-1].type == "Ready"
        assert list((await alice.controller.ListLeases(jumpstarter_pb2.ListLeasesRequest())).names) == [name]
        assert list((await bob.controller.ListLeases(jumpstarter_pb2.ListLeasesRequest())).names) == []
        status, details = await refusal(bob.controller.GetLease(jumpstarter_pb2.GetLeaseRequest(name=name)))
        assert (status, "GetLease permission denied" in details) == ("UNKNOWN", True)
        await alice.controller.ReleaseLease(jumpstarter_pb2.ReleaseLeaseRequest(name=name))
        assert list((await alice.controller.ListLeases(jumpstarter_pb2.ListLeasesRequest())).names) == []


async def test_request_without_selector_is_refused(alice: Stubs) -> None:
    request = jumpstarter_pb2.RequestLeaseRequest()
    request.duration.FromTimedelta(timedelta(minutes=5))
    assert "selector" in (await refusal(alice.controller.RequestLease(request)))[1]


async def test_audit_stream_of_the_published_protocol_is_not_implemented(lab: RunningLab) -> None:
    async with (await lab.exporter()).stubs() as stubs:
        call = stubs.controller.AuditStream()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
