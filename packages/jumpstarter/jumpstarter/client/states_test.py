"""What is told of a lease and of an exporter at a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jumpstarter_protocol import kubernetes_pb2, lab_pb2

from jumpstarter.client.exporter_states import ExporterState
from jumpstarter.client.records import Lease
from jumpstarter.client.states import LeaseState
from jumpstarter.client.wording import clock_time


def message(**members: Any) -> lab_pb2.LeaseState:
    state = lab_pb2.LeaseState(**members)
    state.lease.name, state.lease.client = "namespaces/lab/leases/one", "namespaces/lab/clients/alice"
    state.lease.duration.FromTimedelta(timedelta(hours=1))
    return state


def condition(kind: str, status: str, reason: str, text: str = "") -> kubernetes_pb2.Condition:
    return kubernetes_pb2.Condition(type=kind, status=status, reason=reason, message=text)


def test_times_are_told_by_the_clock_of_this_machine() -> None:
    ahead = timedelta(hours=3)
    sent = message()
    now = datetime.now(UTC)
    sent.now.FromDatetime(now + ahead)
    sent.until.FromDatetime(now + ahead + timedelta(minutes=30))
    state = LeaseState.from_protobuf(sent)
    expiry = state.expires_at()
    assert expiry is not None
    assert abs(expiry - (now + timedelta(minutes=30))) < timedelta(seconds=1)
    assert state.until == now + ahead + timedelta(minutes=30)


def test_roles_of_a_newer_controller_do_no_harm() -> None:
    state = LeaseState.from_protobuf(message(role=9, shares={"bob": 3}))
    assert (state.role, state.shares) == ("role 9", {"bob": "watcher"})


def test_a_lease_whose_time_has_yet_to_come_waits_for_that() -> None:
    sent = message()
    begin = datetime.now(UTC) + timedelta(minutes=90)
    sent.lease.begin_time.FromDatetime(begin)
    state = LeaseState.from_protobuf(sent)
    assert state.state_word() == "Scheduled"
    assert state.waiting_text() == f"begins at {clock_time(begin.astimezone())} (1h 29m left)"


def test_without_anybody_who_has_it_the_reason_is_told() -> None:
    state = LeaseState.from_protobuf(message(place=2, waiting=3, reason="none of them\nare online"))
    assert state.waiting_text() == "place 2 of 3 in the queue; none of them are online"


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        ([condition("Ready", "True", "Ready")], "In-Use"),
        ([condition("Ready", "False", "Expired")], "Expired"),
        ([condition("Unsatisfiable", "True", "NoAccess", "no")], "Unsatisfiable"),
        ([condition("Pending", "True", "Offline", "off")], "Waiting"),
    ],
)
def test_a_lease_of_an_older_controller_is_told_by_its_conditions(conditions: list[Any], word: str) -> None:
    lease = Lease(
        namespace="lab",
        name="one",
        selector="",
        duration=timedelta(hours=1),
        client="alice",
        exporter="",
        conditions=conditions,
    )
    state = LeaseState.of(lease, "alice")
    assert (state.state_word(), state.role) == (word, "owner")
    assert LeaseState.of(lease, "bob").role == ""


def test_all_that_is_known_of_a_lease_is_told_in_words() -> None:
    sent = message(role=1, shares={"bob": 2}, policy="lab/staff", priority=5)
    sent.lease.exporter = "namespaces/lab/exporters/rpi-1"
    sent.lease.conditions.append(condition("Ready", "True", "Ready"))
    now = datetime.now(UTC)
    sent.lease.effective_begin_time.FromDatetime(now - timedelta(minutes=10, seconds=1))
    sent.until.FromDatetime(now + timedelta(minutes=50, seconds=30))
    sent.idle_until.FromDatetime(now + timedelta(minutes=15))
    rows = dict(LeaseState.from_protobuf(sent).describe())
    assert rows["Status"] == "In-Use, for 10m"
    assert rows["Client"] == "alice (you are its owner)"
    assert rows["Ends at"].endswith("(50m left)")
    assert rows["Shared with"] == "bob (driver)"
    assert (rows["Granted by"], rows["Priority"]) == ("lab/staff", "5")
    assert "unless it is used" in rows["Idle end"]


def test_a_waiting_lease_tells_of_each_who_has_what_it_waits_for() -> None:
    sent = message(place=1, waiting=1)
    for name in ("rpi-1", "rpi-2"):
        sent.holders.add(exporter=name, client="bob", lease="x")
    state = LeaseState.from_protobuf(sent)
    assert [text for name, text in state.describe() if name == "Waits for"] == [
        "rpi-1: used by bob",
        "rpi-2: used by bob",
    ]
    assert state.waiting_text() == "next in the queue; rpi-1 is used by bob, 1 more in use"


def test_an_exporter_tells_who_has_it_and_what_keeps_it_from_others() -> None:
    sent = lab_pb2.ExporterState(lease="one", client="bob", waiting=2, draining=True, devices=["power"])
    sent.exporter.name, sent.exporter.online = "namespaces/lab/exporters/rpi-1", True
    sent.until.FromDatetime(datetime.now(UTC) + timedelta(hours=2, seconds=30))
    rows = dict(ExporterState.from_protobuf(sent).describe())
    assert rows["Leased by"].startswith("bob, lease one, until ")
    assert rows["Leased by"].endswith("(2h left)")
    assert (rows["Waiting"], rows["Devices"], rows["Status"]) == ("2", "power", "UNKNOWN, draining")
