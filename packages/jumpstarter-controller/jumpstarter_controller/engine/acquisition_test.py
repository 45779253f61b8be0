"""How clients come to their leases: scenarios L01-L21, P01-P06."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from ..errors import Code, Refused
from ..lab import LeaseChange, LeaseRequest
from ..model.records import ExporterStatus, Kind, Lease
from ..model.selector import parse
from .simulation import HOUR, NAMESPACE, SECOND, Simulation, last, reasons

BUSY = ExporterStatus.BEFORE_LEASE_HOOK


async def test_L01_one_of_two_free_exporters_is_assigned_at_once(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    lease = await lab.lease("alice")
    assert lease.exporter in ("a", "b")
    assert lease.begun == lab.clock.now()
    assert reasons(lease) == [("Ready", "True", "Ready")]
    assert lab.board(lease.exporter).lease == lease.meta.name


async def test_L02_a_lease_needs_a_selector_or_a_name(lab: Simulation) -> None:
    with pytest.raises(Refused, match="one of selector or exporter_name is required") as refused:
        await lab.lease("alice", selector=" ")
    assert refused.value.code is Code.INVALID_ARGUMENT


async def test_L03_an_exporter_asked_for_by_name_is_given(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    assert (await lab.lease("alice", selector="", exporter_name="b")).exporter == "b"
    assert (await lab.lease("bob", selector="board=x", exporter_name="a")).exporter == "a"


async def test_L04_an_unknown_name_never_can_be_had(lab: Simulation) -> None:
    lease = await lab.lease("alice", selector="", exporter_name="nobody")
    assert last(lease) == ("Unsatisfiable", "True", "ExporterNotFound")
    assert "nobody" in lease.conditions[-1].message
    assert (lease.ended, lease.begun) == (True, None)


async def test_L05_a_named_exporter_has_to_match_the_selector(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", selector="board=y", exporter_name="a")
    assert last(lease) == ("Unsatisfiable", "True", "SelectorMismatch")
    assert "board=y" in lease.conditions[-1].message


async def test_L06_what_matches_nothing_never_can_be_had(lab: Simulation) -> None:
    lease = await lab.lease("alice")
    assert last(lease) == ("Unsatisfiable", "True", "NoAccess")
    assert "Matching policies" not in lease.conditions[-1].message


async def test_L07_when_all_are_offline_a_lease_waits(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    lease = await lab.lease("alice")
    assert reasons(lease) == [("Pending", "True", "Offline")]
    assert "(i.e. a)" in lease.conditions[0].message
    assert "none of them are online" in lease.conditions[0].message


async def test_L08_the_exporter_that_is_online_is_given(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    await lab.exporter("b")
    assert (await lab.lease("alice")).exporter == "b"


async def test_L09_exporters_in_a_hook_are_waited_for(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    lease = await lab.lease("alice")
    assert reasons(lease) == [("Pending", "True", "NotReady")]
    assert "none are ready" in lease.conditions[0].message
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(lease)).exporter == "a"


async def test_L10_the_exporter_that_is_ready_is_given(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    await lab.exporter("b")
    assert (await lab.lease("alice")).exporter == "b"


async def test_L11_a_leased_exporter_is_had_when_its_lease_is_released(lab: Simulation) -> None:
    await lab.exporter("a")
    first = await lab.lease("alice")
    second = await lab.lease("bob")
    assert reasons(second) == [("Pending", "True", "NotAvailable")]
    assert "all of them are already leased" in second.conditions[0].message
    await lab.release(first)
    assert (await lab.now(second)).exporter == "a"


async def test_L11_a_leased_exporter_is_had_when_its_lease_expires(lab: Simulation) -> None:
    await lab.exporter("a")
    first = await lab.lease("alice")
    second = await lab.lease("bob")
    await lab.advance(HOUR)
    assert last(await lab.now(first)) == ("Ready", "False", "Expired")
    assert (await lab.now(second)).exporter == "a"


async def test_L12_a_disabled_exporter_is_had_by_name_by_who_says_so(lab: Simulation) -> None:
    await lab.exporter("a", enabled=False)
    refused = await lab.lease("alice", exporter_name="a")
    assert last(refused) == ("Unsatisfiable", "True", "ExporterDisabled")
    assert "is disabled" in refused.conditions[-1].message
    assert "allowDisabled" in refused.conditions[-1].message
    assert "--allow-disabled" in refused.conditions[-1].message
    assert (await lab.lease("alice", exporter_name="a", allow_disabled=True)).exporter == "a"


async def test_L13_a_selector_leaves_disabled_exporters_out(lab: Simulation) -> None:
    await lab.exporter("a", enabled=False)
    assert last(await lab.lease("alice")) == ("Unsatisfiable", "True", "AllDisabled")
    await lab.exporter("b")
    assert (await lab.lease("alice")).exporter == "b"


async def test_L14_an_exporter_is_enabled_if_nothing_is_said(lab: Simulation) -> None:
    await lab.exporter("a")
    assert lab.board("a").enabled


async def test_L16_who_can_be_served_is_served_at_once_although_others_wait(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    for _ in range(5):
        await lab.lease("alice")
    await lab.advance(timedelta(minutes=1))
    await lab.exporter("b", board="y")
    assert (await lab.lease("bob", selector="board=y")).exporter == "b"


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3, 6, 12, 25, 300])
async def test_L17_however_long_a_lease_waited_it_is_served_at_once(lab: Simulation, seconds: float) -> None:
    await lab.exporter("a", status=BUSY)
    lease = await lab.lease("alice")
    await lab.advance(timedelta(seconds=seconds))
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(lease)).begun == lab.clock.now()


async def test_L18_a_client_may_wait_before_its_exporter_starts(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    lease = await lab.lease("alice")
    await lab.advance(timedelta(minutes=2))
    await lab.start("a")
    assert (await lab.now(lease)).exporter == "a"


async def test_L19_fifty_clients_share_one_exporter_oldest_first(lab: Simulation) -> None:
    await lab.exporter("a")
    order: list[Lease] = []

    async def ask(number: int) -> None:
        order.append(
            await lab.lab.create_lease(lab.client_actor("alice"), LeaseRequest(selector="board=x", duration=HOUR))
        )

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(ask, number)
    served: list[str] = []
    for _ in range(50):
        lab.check()
        holder = lab.board("a").lease
        served.append(holder)
        await lab.release(await lab.now(next(lease for lease in order if lease.meta.name == holder)))
        await lab.advance(SECOND)
    waited = [lease for lease in order if lease.meta.name != served[0]]
    waited.sort(key=lambda lease: (lease.meta.created, lease.meta.name))
    assert served[1:] == [lease.meta.name for lease in waited]


async def test_L20_a_free_spot_exporter_is_no_reason_to_give_up(lab: Simulation) -> None:
    await lab.exporter("plain")
    await lab.exporter("spot", board="y")
    await lab.policy("p", lab.rule(), exporters="board=x")
    await lab.policy("q", lab.rule(spot_access=True), exporters="board=y")
    await lab.lease("bob")
    assert reasons(await lab.lease("alice", selector="board")) == [("Pending", "True", "NotAvailable")]


async def test_spot_access_alone_can_not_be_had(lab: Simulation) -> None:
    await lab.exporter("spot")
    await lab.policy("p", lab.rule(spot_access=True))
    lease = await lab.lease("alice")
    assert last(lease) == ("Unsatisfiable", "True", "SpotAccess")
    assert "not implemented" in lease.conditions[-1].message


async def test_L21_after_waiting_ready_is_the_last_condition(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    lease = await lab.lease("alice")
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert reasons(await lab.now(lease)) == [("Pending", "False", "Ready"), ("Ready", "True", "Ready")]


async def test_the_reason_for_waiting_is_told_as_it_is_now(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    lease = await lab.lease("alice")
    since = lease.conditions[0].since
    await lab.advance(SECOND)
    await lab.start("a", BUSY)
    now = await lab.now(lease)
    assert reasons(now) == [("Pending", "True", "NotReady")]
    assert now.conditions[0].since == since


async def test_pending_leases_tell_their_place_and_who_has_what_they_wait_for(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    short = await lab.lease("alice", duration=HOUR / 2)
    await lab.lease("alice", duration=2 * HOUR)
    first = await lab.lease("bob")
    second = await lab.lease("carol")
    view = lab.lab.view(await lab.now(second))
    assert (view.place, view.waiting) == (2, 2)
    assert (view.holders[0].client, view.holders[0].lease) == ("alice", short.meta.name)
    assert view.holders[0].until == lab.clock.now() + HOUR / 2
    assert "already leased" in view.reason
    assert lab.lab.view(await lab.now(first)).place == 1
    assert lab.lab.exporter_view(lab.board("a")).waiting == 2
    await lab.release(short)
    assert lab.lab.view(await lab.now(second)).place == 1
    assert lab.lab.view(await lab.now(first)).place == 0


async def test_waiting_leases_that_fit_nothing_any_more_are_given_up_after_a_while(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    lease = await lab.lease("alice")
    await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, "a"))
    await lab.settle()
    assert not (await lab.now(lease)).ended
    await lab.advance(timedelta(seconds=11))
    assert last(await lab.now(lease)) == ("Unsatisfiable", "True", "NoAccess")


async def test_an_exporter_that_says_it_is_draining_ends_no_lease_and_gets_none(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.lab.drain(lab.exporter_actor("a"), True, "maintenance")
    waiting = await lab.lease("bob")
    await lab.release(lease)
    assert (await lab.now(waiting)).exporter == ""
    await lab.lab.drain(lab.exporter_actor("a"), False)
    await lab.settle()
    assert (await lab.now(waiting)).exporter == "a"


# -- policies ----------------------------------------------------------------------------------------


async def test_P01_without_policies_every_match_is_approved(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    assert (lease.exporter, lease.policy, lease.priority) == ("a", "", 0)


async def test_P02_a_policy_for_others_refuses_and_tells_its_descriptions(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy(
        "p", lab.rule("team=z", description="team z only"), lab.rule("team=y"), lab.rule("team=x", description="and x")
    )
    lease = await lab.lease("alice")
    assert last(lease) == ("Unsatisfiable", "True", "NoAccess")
    assert lease.conditions[-1].message.endswith("Matching policies: team z only; and x")


async def test_P03_the_priority_of_the_rule_is_that_of_the_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(priority=10, description="lab"))
    lease = await lab.lease("alice")
    assert (lease.exporter, lease.priority, lease.policy) == ("a", 10, "p/lab")


async def test_P04_an_approved_exporter_that_is_offline_is_waited_for(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    await lab.policy("p", lab.rule())
    assert reasons(await lab.lease("alice")) == [("Pending", "True", "Offline")]


async def test_P05_a_lease_that_is_too_long_is_refused_with_what_would_be_allowed(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR, description="guests"), lab.rule(maximum_duration=2 * HOUR))
    with pytest.raises(Refused, match="'p', rule 2 allows at most 2h") as refused:
        await lab.lease("alice", duration=3 * HOUR)
    assert refused.value.reason == "TOO_LONG"
    assert await lab.lab.leases(NAMESPACE, only_active=False) == []


async def test_P05_a_scheduled_lease_that_is_too_long_is_refused_as_well(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=HOUR))
    with pytest.raises(Refused, match="allows at most 1h"):
        await lab.lease("alice", duration=3 * HOUR, begin_time=lab.clock.now() + HOUR)


async def test_P06_the_best_of_two_rules_counts(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("low", lab.rule(priority=1))
    await lab.policy("high", lab.rule(priority=5))
    waiting_for = await lab.lease("bob")
    lease = await lab.lease("alice")
    assert "there is 1 approved exporter" in lease.conditions[0].message
    assert (waiting_for.policy, waiting_for.priority) == ("high", 5)


async def test_a_client_has_no_more_leases_than_its_rule_allows(lab: Simulation) -> None:
    for name in "abc":
        await lab.exporter(name)
    await lab.policy("p", lab.rule(maximum_leases=2))
    first = await lab.lease("alice")
    await lab.lease("alice")
    with pytest.raises(Refused, match="allows a client 2 leases at once") as refused:
        await lab.lease("alice")
    assert refused.value.reason == "TOO_MANY_LEASES"
    assert (await lab.lease("bob")).exporter
    await lab.release(first)
    assert (await lab.lease("alice")).exporter


async def test_leases_that_wait_count_as_well_even_when_asked_for_at_once(lab: Simulation) -> None:
    await lab.account("a", {"board": "x"})
    await lab.policy("p", lab.rule(maximum_leases=2))
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            await lab.lab.create_lease(lab.client_actor("alice"), LeaseRequest(selector="board=x", duration=HOUR))
        except Refused:
            refused += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert (refused, len(await lab.lab.leases(NAMESPACE))) == (8, 2)


async def test_policies_take_effect_on_who_waits(lab: Simulation) -> None:
    await lab.exporter("a", status=BUSY)
    await lab.clients("boss", role="boss")
    old = await lab.lease("alice")
    await lab.advance(SECOND)
    urgent = await lab.lease("boss")
    await lab.policy("p", lab.rule("role=boss", priority=5), lab.rule())
    assert (lab.lab.view(urgent).place, lab.lab.view(old).place) == (1, 2)
    await lab.report("a", ExporterStatus.AVAILABLE)
    assert (await lab.now(urgent)).exporter == "a"


async def test_T24_an_extension_beyond_the_maximum_is_refused(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule(maximum_duration=2 * HOUR))
    lease = await lab.lease("alice")
    await lab.advance(HOUR / 2)
    with pytest.raises(Refused, match="allows at most 2h"):
        await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(duration=3 * HOUR))
    extended = await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(duration=2 * HOUR))
    assert extended.duration == 2 * HOUR


async def test_T24_a_lease_can_be_shortened_whatever_the_policies_say(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", duration=3 * HOUR)
    await lab.policy("p", lab.rule("team=nobody"))
    changed = await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(duration=2 * HOUR))
    assert changed.duration == 2 * HOUR


async def test_a_lease_is_handed_over_only_to_who_may_have_it(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.clients("dave", team="d")
    lease = await lab.lease("alice")
    await lab.policy("p", lab.rule("team=d", idle_timeout=HOUR / 2))
    with pytest.raises(Refused, match="no access policy lets client bob have exporter a"):
        await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(client="bob"))
    handed = await lab.lab.update_lease(lab.client_actor("alice"), lease.key, LeaseChange(client="dave"))
    assert (handed.client, handed.policy, handed.idle_timeout) == ("dave", "p", HOUR / 2)


# -- requests ----------------------------------------------------------------------------------------


async def test_C08_a_name_is_given_once(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", name="mine")
    assert lease.meta.name == "mine"
    await lab.release(lease)
    with pytest.raises(Refused, match=r'leases.jumpstarter.dev "mine" already exists'):
        await lab.lease("alice", name="mine")


async def test_C03_tags_are_kept_and_lists_filtered_by_them(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", tags={"ci": "nightly"})
    by_tag = parse("ci=nightly").prefixed("metadata.jumpstarter.dev/")
    assert [item.meta.name for item in await lab.lab.leases(NAMESPACE, selector=by_tag)] == [lease.meta.name]
    assert await lab.lab.leases(NAMESPACE, selector=parse("ci=nightly")) == []
    assert len(await lab.lab.leases(NAMESPACE, selector=parse("board=x"))) == 1
    with pytest.raises(Refused, match="invalid tags"):
        await lab.lease("alice", tags={"a/b": "c"})


async def test_C04_the_selector_is_kept_in_both_forms(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", selector=" board==x , slot!=2,slot!=1")
    assert (str(lease.selector), lease.selector_text) == ("board=x,slot notin (1,2)", "board==x , slot!=2,slot!=1")
    with pytest.raises(Refused):
        await lab.lease("alice", selector="board=x,board=y")


async def test_C02_lists_are_read_in_pages_without_gaps_and_doubles(lab: Simulation) -> None:
    for number in range(5):
        await lab.exporter(f"e{number}")
    leases = [await lab.lease("alice", name=f"l{number}") for number in range(10)]
    for lease in leases[1:4]:
        await lab.release(lease)
    found: list[str] = []
    while page := await lab.lab.leases(NAMESPACE, only_active=False, limit=3, after=found[-1] if found else ""):
        found += [lease.meta.name for lease in page]
    assert found == [f"l{number}" for number in range(10)]
    active = [lease.meta.name for lease in await lab.lab.leases(NAMESPACE, limit=2, after="l0")]
    assert active == ["l4", "l5"]


async def test_C10_a_lease_of_a_day_tells_when_it_ends(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice", duration=timedelta(days=1))
    assert lab.lab.view(lease).until == lab.clock.now() + timedelta(days=1)


async def test_R09_the_context_is_kept_with_the_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    assert (await lab.lease("alice", context={"job": "42"})).context == {"job": "42"}
    with pytest.raises(Refused, match="context"):
        await lab.lease("alice", context={"k" * 33: ""})


async def test_who_is_no_client_has_no_lease(lab: Simulation) -> None:
    await lab.exporter("a")
    for actor in (lab.exporter_actor("a"), lab.client_actor("deleted"), lab.admin):
        with pytest.raises(Refused, match="can't have a lease"):
            await lab.lab.create_lease(actor, LeaseRequest(selector="board=x", duration=HOUR))
