"""What exporters tell of themselves, and how their loss is noticed: scenarios R02-R13."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ..errors import Refused
from ..model.records import Device, ExporterStatus, Kind
from .simulation import HOUR, SECOND, Simulation, last

OFFLINE = (ExporterStatus.OFFLINE, ExporterStatus.UNSPECIFIED)


async def test_R01_a_started_exporter_is_online_registered_available_and_free(lab: Simulation) -> None:
    await lab.exporter("a")
    board = lab.board("a")
    assert (board.online, board.registered, board.status, board.lease) == (True, True, ExporterStatus.AVAILABLE, "")


async def test_R02_an_exporter_replaces_its_own_labels_alone(lab: Simulation) -> None:
    await lab.account("a", {"board": "x", "jumpstarter.dev/old": "1"})
    exporter = await lab.lab.register(
        lab.exporter_actor("a"), {"jumpstarter.dev/new": "2", "board": "forged"}, [Device(uuid="1", labels={"n": "p"})]
    )
    assert exporter.meta.labels == {"board": "x", "jumpstarter.dev/new": "2"}
    assert exporter.devices == (Device(uuid="1", labels={"n": "p"}),)


async def test_R02_registering_again_changes_nothing_else(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    before = lab.board("a")
    await lab.lab.register(lab.exporter_actor("a"), {}, before.devices)
    assert lab.board("a") == before
    assert before.meta.uid
    assert not (await lab.now(lease)).ended


async def test_labels_that_can_not_be_are_refused(lab: Simulation) -> None:
    await lab.account("a", {})
    with pytest.raises(Refused, match="labels of exporter a"):
        await lab.lab.register(lab.exporter_actor("a"), {"jumpstarter.dev/x": "bad value"}, [])


@pytest.mark.parametrize("status", list(ExporterStatus))
async def test_R03_a_report_is_kept_and_says_whether_the_exporter_is_online(
    lab: Simulation, status: ExporterStatus
) -> None:
    await lab.exporter("a")
    await lab.report("a", status, message="why")
    board = lab.board("a")
    assert (board.status, board.status_message, board.online) == (status, "why", status not in OFFLINE)


async def test_R03_the_same_report_again_is_not_written(lab: Simulation) -> None:
    await lab.exporter("a")
    writes = lab.store.commits
    for _ in range(10):
        await lab.report("a", ExporterStatus.AVAILABLE)
    assert lab.store.commits == writes


@pytest.mark.parametrize(("reason", "message"), [("", "the exporter signed off"), ("reboot", "reboot")])
async def test_R04_who_signs_off_is_offline_at_once_and_keeps_its_lease(
    lab: Simulation, reason: str, message: str
) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.lab.unregister(lab.exporter_actor("a"), reason)
    await lab.settle()
    board = lab.board("a")
    assert (board.online, board.registered, board.status) == (False, False, ExporterStatus.OFFLINE)
    assert board.status_message == message
    assert not (await lab.now(lease)).ended
    assert board.lease == lease.meta.name


async def test_R07_an_exporter_that_is_lost_is_offline_after_a_while_and_has_leases_when_it_is_back(
    lab: Simulation,
) -> None:
    await lab.exporter("a")
    seen = lab.clock.now()
    await lab.cut("a")
    await lab.advance(timedelta(seconds=11))
    assert lab.board("a").online
    await lab.advance(SECOND)
    board = lab.board("a")
    assert (board.online, board.status) == (False, ExporterStatus.AVAILABLE)
    assert lab.lab.exporter_view(board).last_seen == seen
    lease = await lab.lease("alice")
    assert last(lease) == ("Pending", "True", "Offline")
    await lab.start("a")
    assert (await lab.now(lease)).exporter == "a"


async def test_R07_a_short_loss_is_not_noticed(lab: Simulation) -> None:
    await lab.exporter("a")
    writes = lab.store.commits
    for _ in range(5):
        await lab.cut("a")
        await lab.advance(timedelta(seconds=10))
        lab.connect("a")
        await lab.advance(timedelta(seconds=10))
    assert lab.board("a").online
    assert lab.store.commits == writes


async def test_R07_one_of_several_streams_is_enough(lab: Simulation) -> None:
    await lab.exporter("a")
    with lab.lab.connected(lab.exporter_actor("a")):
        await lab.cut("a")
        await lab.advance(HOUR)
        assert lab.board("a").online
    await lab.advance(timedelta(seconds=12))
    assert not lab.board("a").online


async def test_R07_an_offline_exporter_keeps_its_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.cut("a")
    await lab.advance(timedelta(minutes=5))
    assert not lab.board("a").online
    assert not (await lab.now(lease)).ended
    await lab.start("a")
    assert lab.board("a").lease == lease.meta.name


async def test_R08_an_exporter_that_never_reports_is_leased_again_and_again(lab: Simulation) -> None:
    await lab.exporter("a", status=None)
    lease = await lab.lease("alice")
    assert lease.exporter == "a"
    await lab.release(lease)
    await lab.cut("a")
    await lab.advance(timedelta(minutes=1))
    assert not lab.board("a").online
    lab.connect("a")
    await lab.settle()
    assert (await lab.lease("alice")).exporter == "a"


async def test_R08_an_exporter_that_never_reports_is_leased_after_it_signed_off(lab: Simulation) -> None:
    await lab.exporter("a", status=None)
    await lab.lab.unregister(lab.exporter_actor("a"), "")
    await lab.cut("a")
    await lab.start("a", None)
    assert (await lab.lease("alice")).exporter == "a"


async def test_R10_an_exporter_in_its_hook_is_not_assigned_because_it_connected_again(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.report("a", ExporterStatus.AFTER_LEASE_HOOK, release=True)
    waiting = await lab.lease("bob")
    await lab.cut("a")
    await lab.advance(timedelta(minutes=1))
    lab.connect("a")
    await lab.settle()
    assert lab.board("a").online
    assert (await lab.now(waiting)).exporter == ""
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(waiting)).exporter == "a"
    assert (await lab.now(lease)).ended


async def test_R11_an_exporter_that_reports_and_never_connects_is_offline_in_the_end(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    await lab.lab.register(lab.exporter_actor("a"), {}, [Device(uuid="1")])
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert lab.board("a").online
    await lab.advance(timedelta(seconds=12))
    assert not lab.board("a").online


async def test_R13_an_exporter_that_restarts_has_its_lease_still(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.report("a", ExporterStatus.LEASE_READY)
    await lab.cut("a")
    await lab.start("a")
    now = await lab.now(lease)
    assert (now.exporter, now.ended, lab.board("a").lease) == ("a", False, lease.meta.name)
    assert (await lab.lease("bob")).exporter == ""


async def test_after_a_restart_nobody_is_offline_before_the_time_to_come_back() -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice")
        await lab.exporter("a")
        await lab.exporter("b")
    lab.clock.advance(HOUR)
    again = lab.restarted()
    async with again.running():
        assert again.board("a").online
        await again.advance(timedelta(seconds=11))
        again.connect("a")
        await again.advance(timedelta(seconds=2))
        assert (again.board("a").online, again.board("b").online) == (True, False)


async def test_a_server_that_does_not_lead_gives_up_only_its_own_exporters() -> None:
    leader = Simulation()
    follower = leader.restarted()
    async with leader.running(), follower.running(lead=False):
        await leader.clients("alice")
        await leader.exporter("a")
        await follower.account("b", {"board": "x"})
        await follower.start("b")
        await leader.advance(HOUR)
        assert (leader.board("a").online, leader.board("b").online) == (True, True)
        await follower.cut("b")
        await leader.advance(timedelta(seconds=12))
        assert (leader.board("a").online, leader.board("b").online) == (True, False)


async def test_only_the_leader_assigns_and_both_know() -> None:
    leader = Simulation()
    follower = leader.restarted()
    async with leader.running(), follower.running(lead=False):
        await leader.clients("alice")
        await leader.exporter("a")
        await follower.settle()
        lease = await follower.lease("alice")
        assert lease.exporter == "" or lease.begun is not None
        assert (await follower.now(lease)).exporter == "a"
        assert (await leader.now(lease)).exporter == "a"
        await follower.release(lease)
        assert leader.board("a").lease == ""


async def test_whoever_is_elected_goes_on_where_the_other_ceased() -> None:
    first = Simulation()
    second = first.restarted()
    async with first.running(lead=False), second.running(lead=False):
        await first.clients("alice")
        await first.exporter("a")
        lease = await first.lease("alice", duration=HOUR)
        assert (await first.now(lease)).exporter == ""
        await second.lab.lead(True)
        await second.settle()
        assert (await first.now(lease)).exporter == "a"
        await second.advance(HOUR)
        assert (await first.now(lease)).ended


async def test_an_exporter_that_was_deleted_is_told_so(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, "a"))
    with pytest.raises(Refused, match="deleted"):
        await lab.report("a", ExporterStatus.AVAILABLE)


async def test_draining_ends_when_an_exporter_starts_anew(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.lab.drain(lab.exporter_actor("a"), True)
    assert lab.board("a").draining
    await lab.start("a")
    assert not lab.board("a").draining


async def test_O05_exporters_that_are_merely_there_cost_no_writes(lab: Simulation) -> None:
    for number in range(50):
        await lab.exporter(f"board-{number}")
    # given what was to be noted of their start
    await lab.lab.flush_audit()
    await lab.settle()
    before = lab.store.calls
    # when an hour passes, in which each opens its stream anew every minute
    for _ in range(60):
        await lab.advance(timedelta(minutes=1))
        for number in range(50):
            lab.connect(f"board-{number}")
    # then nothing was written
    assert lab.store.calls == before
