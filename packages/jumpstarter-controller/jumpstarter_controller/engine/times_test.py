"""How leases begin, change and end: scenarios T01-T23."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ..errors import Code, Refused
from ..lab import LeaseChange
from ..model.records import ENDED_LABEL, ExporterStatus, Kind, Lease, Role
from ..settings import Leases, Settings
from .simulation import HOUR, NAMESPACE, SECOND, Simulation, last, reasons


async def update(lab: Simulation, lease: Lease, actor: str = "", **change: object) -> Lease:
    changed = await lab.lab.update_lease(
        lab.client_actor(actor or lease.client),
        lease.key,
        LeaseChange(**change),  # type: ignore[arg-type]
    )
    await lab.settle()
    return changed


async def test_T01_a_lease_ends_its_duration_after_it_began(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    assert (lease.begin_time, lease.end_time) == (None, None)
    await lab.advance(HOUR - SECOND)
    assert not (await lab.now(lease)).ended
    await lab.advance(SECOND)
    assert last(await lab.now(lease)) == ("Ready", "False", "Expired")
    assert lab.board("a").lease == ""


@pytest.mark.parametrize("with_end", [False, True])
async def test_T02_a_scheduled_lease_begins_at_its_time(lab: Simulation, with_end: bool) -> None:
    await lab.exporter("a")
    begin = lab.clock.now() + HOUR
    times = {"end_time": begin + HOUR} if with_end else {"duration": HOUR}
    lease = await lab.lease("alice", begin_time=begin, **times)
    await lab.advance(HOUR - SECOND)
    assert ((await lab.now(lease)).exporter, (await lab.now(lease)).conditions) == ("", ())
    assert lab.lab.view(await lab.now(lease)).place == 0
    await lab.advance(SECOND)
    now = await lab.now(lease)
    assert (now.exporter, now.begun) == ("a", begin)
    await lab.advance(HOUR)
    assert (await lab.now(lease)).ended


async def test_T03_a_begin_that_is_past_starts_now(lab: Simulation) -> None:
    await lab.exporter("a")
    end = lab.clock.now() + HOUR / 2
    lease = await lab.lease("alice", end_time=end, duration=HOUR)
    assert (lease.begin_time, lease.begun) == (end - HOUR, lab.clock.now())
    await lab.advance(HOUR / 2)
    assert (await lab.now(lease)).ended


async def test_T06_a_lease_whose_end_is_past_ends_at_once(lab: Simulation) -> None:
    await lab.exporter("a")
    past = lab.clock.now() - HOUR
    lease = await lab.lease("alice", end_time=past, duration=HOUR)
    assert (lease.ended, lease.exporter) == (True, "")
    assert last(lease) == ("Ready", "False", "Expired")
    assert lab.board("a").lease == ""


async def test_T07_T09_a_late_start_does_not_move_the_end(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    begin = lab.clock.now() + HOUR
    lease = await lab.lease("alice", begin_time=begin, duration=HOUR)
    await lab.advance(HOUR + HOUR / 2)
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert lab.lab.view(await lab.now(lease)).until == begin + HOUR
    await lab.advance(HOUR / 2)
    assert (await lab.now(lease)).ended


async def test_T09_a_lease_that_waits_beyond_its_time_ends(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice", begin_time=lab.clock.now(), duration=HOUR)
    await lab.advance(HOUR)
    now = await lab.now(lease)
    assert now.ended
    assert reasons(now)[1:] == [("Unsatisfiable", "True", "Expired"), ("Ready", "False", "Expired")]


async def test_T10_a_scheduled_lease_is_released_before_it_begins(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", begin_time=lab.clock.now() + HOUR)
    ended = await lab.release(lease)
    assert (ended.ended, ended.exporter, ended.begun) == (True, "", None)
    assert reasons(ended) == [("Ready", "False", "Released")]
    await lab.advance(2 * HOUR)
    assert lab.board("a").lease == ""


async def test_T11_an_active_lease_is_over_when_release_returns(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.advance(HOUR / 2)
    ended = await lab.lab.release_lease(lab.client_actor("alice"), lease.key, "done")
    assert lab.board("a").lease == ""
    assert (ended.ended, ended.exporter, ended.ended_at) == (True, "a", lab.clock.now())
    assert ended.meta.labels[ENDED_LABEL] == "true"
    assert ended.conditions[-1].message == "done"
    assert lab.lab.active_lease(lease.key) is None
    assert await lab.now(lease) == ended


async def test_T13_the_end_of_an_active_lease_is_moved_both_ways(lab: Simulation) -> None:
    await lab.exporter("a")
    start = lab.clock.now()
    lease = await lab.lease("alice")
    await update(lab, lease, end_time=start + 3 * HOUR)
    await lab.advance(2 * HOUR)
    assert not (await lab.now(lease)).ended
    await update(lab, lease, duration=2 * HOUR + HOUR / 2)
    await lab.advance(HOUR / 2)
    assert last(await lab.now(lease)) == ("Ready", "False", "Expired")


async def test_T13_a_lease_that_is_shortened_into_the_past_ends_at_once(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.advance(HOUR / 2)
    assert (await update(lab, lease, duration=HOUR / 4)).ended
    assert lab.board("a").lease == ""


async def test_T13_the_begin_of_a_scheduled_lease_is_moved(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", begin_time=lab.clock.now() + HOUR)
    await update(lab, lease, begin_time=lab.clock.now() + HOUR / 2)
    await lab.advance(HOUR / 2)
    assert (await lab.now(lease)).exporter == "a"


async def test_T14_the_begin_is_not_moved_after_the_start(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    with pytest.raises(Refused) as refused:
        await update(lab, lease, begin_time=lab.clock.now() + HOUR)
    assert refused.value.code is Code.UNKNOWN


async def test_T16_two_scheduled_leases_follow_each_other(lab: Simulation) -> None:
    await lab.exporter("a")
    now = lab.clock.now()
    first = await lab.lease("alice", begin_time=now + HOUR, duration=3 * HOUR)
    second = await lab.lease("bob", begin_time=now + 2 * HOUR, duration=3 * HOUR)
    await lab.advance(HOUR)
    await lab.advance(HOUR)
    assert [(await lab.now(lease)).exporter for lease in (first, second)] == ["a", ""]
    assert reasons(await lab.now(second)) == [("Pending", "True", "NotAvailable")]
    await lab.release(first)
    assert (await lab.now(second)).exporter == "a"


async def test_T17_a_lease_is_handed_over(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    shared = await update(lab, lease, shares={"bob": Role.DRIVER})
    assert lab.lab.role(shared, lab.key(Kind.CLIENT, "bob")) == "driver"
    handed = await update(lab, lease, client="bob")
    assert (handed.client, handed.exporter, handed.shares) == ("bob", "a", {})
    assert lab.board("a").lease == lease.meta.name
    holder = lab.lab.exporter_view(lab.board("a")).holder
    assert holder is not None
    assert holder.client == "bob"
    with pytest.raises(Refused, match="permission denied"):
        await lab.lab.release_lease(lab.client_actor("alice"), lease.key)


async def test_T18_a_lease_is_not_handed_over_before_it_began_after_it_ended_or_to_nobody(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    waiting = await lab.lease("bob")
    with pytest.raises(Refused, match="has not begun"):
        await update(lab, waiting, client="carol")
    with pytest.raises(Refused, match="not found"):
        await update(lab, lease, client="nobody")
    await lab.release(lease)
    with pytest.raises(Refused, match="has ended"):
        await update(lab, lease, client="carol")


async def test_only_the_owner_and_admins_change_a_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    with pytest.raises(Refused, match="permission denied") as refused:
        await update(lab, lease, "bob", duration=2 * HOUR)
    assert refused.value.code is Code.UNKNOWN
    changed = await lab.lab.update_lease(lab.admin, lease.key, LeaseChange(duration=2 * HOUR))
    assert changed.duration == 2 * HOUR


async def test_roles_are_given_and_taken(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    lease = await update(lab, lease, shares={"bob": Role.WATCHER, "carol": Role.DRIVER})
    roles = [lab.lab.role(lease, lab.key(Kind.CLIENT, name)) for name in ("alice", "bob", "carol", "dave")]
    assert roles == ["owner", "watcher", "driver", ""]
    lease = await update(lab, lease, shares={"bob": None})
    assert lab.lab.role(lease, lab.key(Kind.CLIENT, "bob")) == ""
    with pytest.raises(Refused, match="not found"):
        await update(lab, lease, shares={"nobody": Role.DRIVER})
    with pytest.raises(Refused, match="owns lease"):
        await update(lab, lease, shares={"alice": Role.DRIVER})


async def test_T19_a_lease_that_ended_is_returned_as_it_is(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    ended = await lab.release(lease)
    await lab.advance(SECOND)
    assert await lab.release(lease) == ended
    with pytest.raises(Refused, match="permission denied"):
        await lab.lab.release_lease(lab.client_actor("bob"), lease.key)


async def test_T20_an_exporter_releases_the_lease_that_it_has(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b", board="y")
    own, foreign = await lab.lease("alice"), await lab.lease("bob", selector="board=y")
    unassigned = await lab.lease("carol")
    exporter = lab.exporter_actor("a")
    for lease in (foreign, unassigned):
        with pytest.raises(Refused, match="not held by exporter a") as refused:
            await lab.lab.release_lease(exporter, lease.key)
        assert refused.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(Refused) as refused:
        await lab.lab.release_lease(exporter, lab.key(Kind.LEASE, "none"))
    assert refused.value.code is Code.NOT_FOUND
    assert (await lab.lab.release_lease(exporter, own.key)).ended
    assert (await lab.lab.release_lease(exporter, own.key)).ended
    await lab.settle()
    assert (await lab.now(unassigned)).exporter == "a"


async def test_a_lease_that_is_not_there_can_not_be_released(lab: Simulation) -> None:
    with pytest.raises(Refused, match=r'leases.jumpstarter.dev "none" not found') as refused:
        await lab.lab.release_lease(lab.client_actor("alice"), lab.key(Kind.LEASE, "none"))
    assert refused.value.code is Code.UNKNOWN


async def test_T21_a_report_with_release_without_a_lease_is_fine(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b", board="y")
    lease = await lab.lease("alice")
    await lab.report("b", ExporterStatus.AVAILABLE, release=True)
    assert not (await lab.now(lease)).ended


async def test_a_report_with_release_ends_the_lease_and_leaves_the_exporter_in_its_state(lab: Simulation) -> None:
    await lab.exporter("a")
    lease, waiting = await lab.lease("alice"), await lab.lease("bob")
    await lab.report("a", ExporterStatus.AFTER_LEASE_HOOK, release=True)
    assert (await lab.now(lease)).ended
    assert (await lab.now(waiting)).exporter == ""
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(waiting)).exporter == "a"


async def test_available_before_the_end_of_a_lease_counts_after_it(lab: Simulation) -> None:
    # Published exporters without hooks say AVAILABLE when the session ends, before the lease does, and never again.
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.report("a", ExporterStatus.LEASE_READY)
    waiting = await lab.lease("bob")
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(waiting)).exporter == ""
    await lab.release(lease)
    assert (await lab.now(waiting)).exporter == "a"


async def test_T22_what_expired_while_no_server_ran_ends_before_anything_is_served() -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice", "bob")
        await lab.exporter("a")
        lease = await lab.lease("alice")
        waiting = await lab.lease("bob", duration=3 * HOUR)
    lab.clock.advance(2 * HOUR)
    again = lab.restarted()
    async with again.running():
        assert again.lab.active_lease(lease.key) is None
        assert again.board("a").lease == ""
        again.connect("a")
        await again.settle()
        assert (await again.now(waiting)).exporter == "a"
        assert last(await again.now(lease)) == ("Ready", "False", "Expired")


async def test_T23_a_pending_lease_is_cancelled_when_its_owner_stopped_waiting(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice")
    with lab.waits(lease):
        await lab.advance(HOUR)
        assert not (await lab.now(lease)).ended
    await lab.advance(timedelta(seconds=29))
    assert not (await lab.now(lease)).ended
    await lab.advance(SECOND)
    assert last(await lab.now(lease)) == ("Ready", "False", "Released")
    assert "stopped waiting" in (await lab.now(lease)).conditions[-1].message


async def test_T23_who_comes_back_in_time_waits_on(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice")
    with lab.waits(lease):
        await lab.settle()
    await lab.advance(timedelta(seconds=20))
    with lab.waits(lease):
        await lab.advance(timedelta(minutes=5))
        assert not (await lab.now(lease)).ended


async def test_T23_who_looks_at_a_scheduled_lease_may_go(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice", begin_time=lab.clock.now() + HOUR, duration=HOUR)
    with lab.waits(lease):
        await lab.advance(timedelta(minutes=1))
    await lab.advance(HOUR)
    assert reasons(await lab.now(lease)) == [("Pending", "True", "NotReady")]


async def test_T23_a_board_that_was_given_to_a_client_that_had_died_comes_free(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice")
    with lab.waits(lease):
        await lab.advance(SECOND)
    await lab.advance(timedelta(seconds=10))
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(lease)).exporter == "a"
    await lab.advance(timedelta(seconds=19))
    assert not (await lab.now(lease)).ended
    await lab.advance(SECOND)
    assert "stopped waiting" in (await lab.now(lease)).conditions[-1].message


@pytest.mark.parametrize("sign", ["watches", "uses"])
async def test_T23_who_was_away_at_the_grant_and_is_seen_in_time_keeps_the_board(lab: Simulation, sign: str) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice")
    with lab.waits(lease):
        await lab.advance(SECOND)
    await lab.report("a", ExporterStatus.AVAILABLE)
    await lab.advance(timedelta(seconds=20))
    if sign == "watches":
        with lab.waits(lease):
            await lab.advance(SECOND)
    else:
        await lab.lab.used(lab.client_actor("alice"), lease.key, in_use=True)
    await lab.advance(timedelta(minutes=5))
    assert not (await lab.now(lease)).ended


async def test_T23_an_active_lease_needs_nobody_who_waits(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    with lab.waits(lease):
        await lab.settle()
    await lab.advance(timedelta(minutes=5))
    assert not (await lab.now(lease)).ended


async def test_T23_clients_that_do_not_watch_wait_as_long_as_they_like_by_default(lab: Simulation) -> None:
    await lab.exporter("a", status=ExporterStatus.AFTER_LEASE_HOOK)
    lease = await lab.lease("alice")
    await lab.advance(timedelta(days=3))
    assert not (await lab.now(lease)).ended


async def test_T23_clients_that_do_not_watch_can_be_given_a_limit() -> None:
    lab = Simulation(Settings(leases=Leases(pending_limit=HOUR)))
    async with lab.running():
        await lab.clients("alice")
        await lab.account("a", {"board": "x"})
        lease = await lab.lease("alice")
        await lab.advance(HOUR)
        assert last(await lab.now(lease)) == ("Ready", "False", "Released")


async def test_T23_after_a_restart_those_who_waited_have_the_grace_time_to_come_back() -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice", "bob")
        await lab.account("a", {"board": "x"})
        dead, alive = await lab.lease("alice"), await lab.lease("bob")
        with lab.waits(dead), lab.waits(alive):
            await lab.advance(timedelta(seconds=5))
    again = lab.restarted()
    async with again.running():
        await again.advance(timedelta(seconds=20))
        with again.waits(alive):
            await again.advance(timedelta(seconds=20))
            assert (await again.now(dead)).ended
            assert not (await again.now(alive)).ended


async def test_a_release_that_was_asked_for_past_the_server_is_done(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.write(replace(await lab.now(lease), release=True))
    assert last(await lab.now(lease)) == ("Ready", "False", "Released")
    assert lab.board("a").lease == ""


async def test_L22_an_ended_lease_without_its_label_gets_it(lab: Simulation) -> None:
    await lab.exporter("a")
    ended = await lab.release(await lab.lease("alice"))
    await lab.write(replace(ended, meta=replace(ended.meta, labels={"board": "x"})))
    now = await lab.now(ended)
    assert now.meta.labels == {"board": "x", ENDED_LABEL: "true"}
    assert (now.ended_at, now.conditions) == (ended.ended_at, ended.conditions)


# -- use ---------------------------------------------------------------------------------------------


async def used(lab: Simulation, lease: Lease) -> None:
    await lab.lab.used(lab.exporter_actor(lease.exporter), lease.key, in_use=True)
    await lab.settle()


async def test_a_lease_that_is_not_used_ends(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(idle_timeout=HOUR / 4))
    lease = await lab.lease("alice")
    assert lab.lab.view(lease).idle_until == lab.clock.now() + HOUR / 4
    await lab.advance(HOUR / 5)
    await used(lab, lease)
    await lab.advance(HOUR / 5)
    assert not (await lab.now(lease)).ended
    await lab.advance(HOUR / 20)
    assert last(await lab.now(lease)) == ("Ready", "False", "Expired")
    assert "not used for 15m" in (await lab.now(lease)).conditions[-1].message


async def test_use_extends_a_lease_up_to_its_limit_with_few_writes(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR, extend_by_use=HOUR / 2, maximum_use=3 * HOUR))
    lease = await lab.lease("alice")
    start = lab.clock.now()
    writes = lab.store.commits
    while not (await lab.now(lease)).ended:
        await used(lab, lease)
        await lab.advance(timedelta(seconds=30))
    assert lab.clock.now() - start == 3 * HOUR
    assert lab.store.commits - writes < 70  # 360 reports


async def test_use_that_ends_lets_the_lease_end(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR, extend_by_use=HOUR / 2, maximum_use=3 * HOUR))
    lease = await lab.lease("alice")
    await lab.advance(HOUR - SECOND)
    await used(lab, lease)
    assert lab.lab.view(await lab.now(lease)).until == lab.clock.now() + HOUR / 2
    await lab.advance(HOUR / 2)
    assert (await lab.now(lease)).ended


async def test_an_extended_lease_can_still_be_handed_over(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR, extend_by_use=HOUR / 2, maximum_use=3 * HOUR))
    lease = await lab.lease("alice")
    await lab.advance(HOUR - SECOND)
    await used(lab, lease)
    assert (await update(lab, lease, client="bob")).client == "bob"


async def test_use_is_told_by_the_exporter_that_has_the_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    with pytest.raises(Refused, match="not held"):
        await lab.lab.used(lab.exporter_actor("b"), lease.key, in_use=True)


async def test_after_a_restart_all_leases_count_as_just_used() -> None:
    lab = Simulation()
    async with lab.running():
        await lab.clients("alice")
        await lab.exporter("a")
        await lab.policy("p", lab.rule(idle_timeout=HOUR / 4))
        lease = await lab.lease("alice")
        await lab.advance(HOUR / 5)
    again = lab.restarted()
    async with again.running():
        await again.advance(HOUR / 5)
        assert not (await again.now(lease)).ended
        await again.advance(HOUR / 20)
        assert (await again.now(lease)).ended


async def test_old_leases_are_removed_and_others_kept() -> None:
    lab = Simulation(Settings(leases=Leases(keep_ended=timedelta(days=1))))
    async with lab.running():
        await lab.clients("alice")
        await lab.exporter("a")
        await lab.exporter("b")
        old, running = await lab.lease("alice"), await lab.lease("alice", duration=timedelta(days=30))
        await lab.release(old)
        await lab.advance(timedelta(days=2))
        assert await lab.lab.lease(old.key) is None
        assert [lease.meta.name for lease in await lab.lab.leases(NAMESPACE)] == [running.meta.name]
