"""The times, conditions and steps of a lease."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..errors import Code, Refused
from . import lease as life
from .names import check_context, check_name, check_namespace, check_tags
from .policy import UNRESTRICTED, Approval
from .records import ENDED_LABEL, Lease, Meta, Rule
from .selector import Selector, parse
from .uuid7 import uuid7

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def lease(**fields: object) -> Lease:
    given: dict[str, object] = {"duration": HOUR, "client": "alice", **fields}
    return Lease(meta=Meta(namespace="lab", name="l", created=NOON), **given)  # type: ignore[arg-type]


def begun(**fields: object) -> Lease:
    return life.begin(lease(**fields), "e", UNRESTRICTED, NOON)


# -- times -------------------------------------------------------------------------------------------


def test_T01_with_a_duration_alone_begin_and_end_stay_open() -> None:
    assert life.reconcile_times(HOUR, None, None) == (HOUR, None, None)


def test_T02_begin_and_duration_leave_the_end_to_be_computed() -> None:
    assert life.reconcile_times(HOUR, NOON, None) == (HOUR, NOON, None)


def test_T02_begin_and_end_give_the_duration() -> None:
    assert life.reconcile_times(None, NOON, NOON + HOUR) == (HOUR, NOON, NOON + HOUR)


def test_T03_end_and_duration_give_the_begin() -> None:
    assert life.reconcile_times(HOUR, None, NOON) == (HOUR, NOON - HOUR, NOON)


def test_T04_three_times_that_agree_are_taken() -> None:
    assert life.reconcile_times(HOUR, NOON, NOON + HOUR) == (HOUR, NOON, NOON + HOUR)


@pytest.mark.parametrize(
    ("duration", "begin", "end", "text"),
    [
        (2 * HOUR, NOON, NOON + HOUR, "^duration conflicts with begin_time and end_time"),
        (None, NOON, NOON - HOUR, "^duration must be positive"),
        (timedelta(0), None, None, "^duration must be positive"),
        (-HOUR, NOON, None, "^duration must be positive"),
        (None, NOON, None, "^duration is required"),
        (None, None, NOON, "^duration is required"),
        (None, None, None, "^duration is required"),
        (timedelta(days=4000), None, None, "^duration must be at most"),
        (HOUR, None, datetime.min.replace(tzinfo=UTC), "beyond"),
        (HOUR, datetime(2026, 1, 1), None, "time zone"),
    ],
)
def test_T05_times_that_do_not_fit_are_refused_with_the_words_of_published_servers(
    duration: timedelta | None, begin: datetime | None, end: datetime | None, text: str
) -> None:
    with pytest.raises(Refused, match=text) as refused:
        life.reconcile_times(duration, begin, end)
    assert refused.value.code is Code.UNKNOWN


MOMENTS = st.none() | st.integers(-5, 5).map(lambda hours: NOON + hours * HOUR)


@given(st.none() | st.integers(-5, 5).map(lambda hours: hours * HOUR), MOMENTS, MOMENTS)
def test_accepted_times_agree_and_are_accepted_again(
    duration: timedelta | None, begin: datetime | None, end: datetime | None
) -> None:
    try:
        times = life.reconcile_times(duration, begin, end)
    except Refused:
        return
    assert times.duration > timedelta(0)
    if times.end is not None:
        assert times.begin == times.end - times.duration
    assert life.reconcile_times(*times) == times


def test_T01_a_lease_ends_its_duration_after_it_began() -> None:
    assert life.expiry(begun()) == NOON + HOUR


def test_T08_an_earlier_end_wins_over_the_duration() -> None:
    assert life.expiry(begun(end_time=NOON + HOUR / 2)) == NOON + HOUR / 2


def test_T09_a_late_start_does_not_move_the_end_of_a_requested_begin() -> None:
    assert life.expiry(begun(begin_time=NOON - HOUR / 2)) == NOON + HOUR / 2


# -- changes of times --------------------------------------------------------------------------------


def test_T13_the_duration_of_an_active_lease_moves_its_end() -> None:
    changed = life.change_times(begun(), NOON, duration=HOUR / 4)
    assert (life.expiry(changed), changed.begin_time) == (NOON + HOUR / 4, None)


def test_T13_the_end_of_an_active_lease_is_moved() -> None:
    changed = life.change_times(begun(), NOON, end_time=NOON + 3 * HOUR)
    assert (life.expiry(changed), changed.duration, changed.begin_time) == (NOON + 3 * HOUR, 3 * HOUR, None)


def test_T13_a_duration_given_after_an_end_moves_the_end_again() -> None:
    changed = life.change_times(begun(), NOON, end_time=NOON + 3 * HOUR)
    assert life.expiry(life.change_times(changed, NOON, duration=2 * HOUR)) == NOON + 2 * HOUR


def test_T13_the_end_of_a_scheduled_lease_is_moved() -> None:
    scheduled = lease(begin_time=NOON + HOUR, end_time=NOON + 2 * HOUR)
    changed = life.change_times(scheduled, NOON, end_time=NOON + 4 * HOUR)
    assert (changed.duration, changed.end_time) == (3 * HOUR, NOON + 4 * HOUR)


def test_the_begin_of_a_scheduled_lease_is_moved() -> None:
    scheduled = lease(begin_time=NOON + HOUR)
    assert life.change_times(scheduled, NOON, begin_time=NOON + 2 * HOUR).begin_time == NOON + 2 * HOUR


def test_T14_the_begin_of_a_lease_that_began_is_not_moved() -> None:
    with pytest.raises(Refused, match=r"begin_time"):
        life.change_times(begun(begin_time=NOON), NOON, begin_time=NOON + HOUR)


def test_T14_the_same_begin_is_no_change() -> None:
    scheduled = begun(begin_time=NOON)
    assert life.change_times(scheduled, NOON, begin_time=NOON) == scheduled


def test_T15_a_duration_alone_conflicts_with_fixed_begin_and_end() -> None:
    fixed = lease(begin_time=NOON, end_time=NOON + HOUR)
    with pytest.raises(Refused, match=r"^duration conflicts"):
        life.change_times(fixed, NOON, duration=2 * HOUR)


def test_an_end_before_the_begin_is_refused() -> None:
    with pytest.raises(Refused, match=r"^duration must be positive"):
        life.change_times(begun(), NOON, end_time=NOON - HOUR)


def test_a_duration_and_an_end_that_disagree_are_refused() -> None:
    with pytest.raises(Refused, match=r"^duration conflicts"):
        life.change_times(begun(), NOON, duration=HOUR, end_time=NOON + 2 * HOUR)


@pytest.mark.parametrize(
    "fields", [{}, {"begin_time": NOON}, {"begin_time": NOON, "end_time": NOON + HOUR}, {"end_time": NOON + HOUR}]
)
def test_an_extended_lease_ends_at_the_new_moment_and_its_times_agree(fields: dict[str, object]) -> None:
    extended = life.extend_to(begun(**fields), NOON + 5 * HOUR)
    assert life.expiry(extended) == NOON + 5 * HOUR
    assert life.requested_length(extended) == extended.duration == 5 * HOUR


# -- conditions --------------------------------------------------------------------------------------


def kinds(record: Lease) -> list[tuple[str, str, str]]:
    return [(item.type, item.status, item.reason) for item in record.conditions]


def test_a_lease_that_is_had_at_once_never_was_pending() -> None:
    assert kinds(begun()) == [("Ready", "True", "Ready")]


def test_L21_after_waiting_ready_is_the_last_condition_and_pending_ends_with_it() -> None:
    waited = life.begin(life.pend(lease(), "NotAvailable", "", NOON), "e", UNRESTRICTED, NOON)
    assert kinds(waited) == [("Pending", "False", "Ready"), ("Ready", "True", "Ready")]


def test_the_moment_of_a_condition_is_that_of_its_status() -> None:
    first = life.pend(lease(), "Offline", "", NOON)
    second = life.pend(first, "NotReady", "", NOON + HOUR)
    assert second.conditions[0].since == NOON
    third = life.begin(second, "e", UNRESTRICTED, NOON + 2 * HOUR)
    assert {item.since for item in third.conditions} == {NOON + 2 * HOUR}


def test_T11_an_ended_lease_keeps_its_exporter_and_how_long_it_was_held() -> None:
    ended = life.end(begun(), "Released", "", NOON + HOUR / 2)
    assert (ended.exporter, ended.ended, ended.ended_at) == ("e", True, NOON + HOUR / 2)
    assert ended.meta.labels[ENDED_LABEL] == "true"
    assert kinds(ended)[-1] == ("Ready", "False", "Released")
    assert life.effective_duration(ended, NOON + 9 * HOUR) == HOUR / 2


def test_T12_the_effective_duration_grows_while_a_lease_is_held() -> None:
    assert life.effective_duration(begun(), NOON + HOUR / 4) == HOUR / 4
    assert life.effective_duration(lease(), NOON) is None


def test_an_ended_lease_does_not_end_again() -> None:
    ended = life.end(begun(), "Released", "", NOON)
    assert life.end(ended, "Expired", "", NOON + HOUR) is ended


def test_a_pending_lease_whose_time_passes_ends_so_that_published_clients_see_it() -> None:
    ended = life.end(life.pend(lease(), "Offline", "", NOON), "Expired", "", NOON)
    assert kinds(ended)[1:] == [("Unsatisfiable", "True", "Expired"), ("Ready", "False", "Expired")]


def test_a_lease_gets_the_terms_of_the_rule() -> None:
    rule = Rule(description="night", priority=7, idle_timeout=HOUR / 4, maximum_use=5 * HOUR, maximum_duration=HOUR)
    granted = life.begin(lease(), "e", Approval("team", 0, rule, Selector()), NOON)
    assert (granted.policy, granted.priority, granted.idle_timeout) == ("team/night", 7, HOUR / 4)
    assert granted.limit == NOON + 5 * HOUR


# -- names, tags, labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "board-1", "a.b-c", "0", "a" * 63])
def test_names_of_rfc_1123_are_taken(name: str) -> None:
    check_name(name, "an exporter")


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a..b", "a" * 64, "a/b", "ä", "a\n", "a." * 130 + "a"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(Refused) as refused:
        check_name(name, "an exporter")
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_a_namespace_is_one_label() -> None:
    check_namespace("lab-1")
    with pytest.raises(Refused):
        check_namespace("a.b")


def test_C03_tags_that_fit_are_taken() -> None:
    check_tags({"team": "x", "a" * 63: "b" * 63, "empty": ""}, 10)


@pytest.mark.parametrize(
    "tags",
    [
        {str(number): "x" for number in range(11)},
        {"jumpstarter.dev/x": "y"},
        {"metadata.jumpstarter.dev/x": "y"},
        {"a/b": "c"},
        {"a" * 64: "b"},
        {"a": "b" * 64},
        {"a b": "c"},
        {"a": "b c"},
        {"": "x"},
    ],
)
def test_C03_other_tags_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        check_tags(tags, 10)
    assert (refused.value.code, refused.value.reason) == (Code.INVALID_ARGUMENT, "INVALID_TAG")


@pytest.mark.parametrize(
    "context", [{str(number): "" for number in range(9)}, {"a" * 33: ""}, {"a": "b" * 65}, {"": "x"}, {"a": "b\n"}]
)
def test_a_context_that_is_too_large_is_refused(context: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        check_context(context)
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_the_labels_of_a_lease_are_its_equalities_and_its_tags() -> None:
    selector = parse("board=x,metadata.jumpstarter.dev/team=forged,!y")
    assert life.metadata_labels(selector, {"team": "a"}) == {"board": "x", "metadata.jumpstarter.dev/team": "a"}


def test_made_names_sort_by_time() -> None:
    moments = [NOON + timedelta(microseconds=step) for step in (0, 1, 2, 999, 1000, 5_000_000)]
    names = [uuid7(moment) for moment in moments]
    assert names == sorted(names)
    assert len({uuid7(NOON) for _ in range(100)}) == 100
    check_name(names[0], "a lease")
