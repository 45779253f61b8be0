"""Exporters and leases as the controller tells of them: read, shown and dumped."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from jumpstarter_protocol import client_pb2, kubernetes_pb2

from jumpstarter.client.grpc import (
    Exporter,
    ExporterList,
    Lease,
    LeaseList,
    MultipathExporterStub,
    WithOptions,
    add_display_columns,
    add_exporter_row,
    parse_client_identifier,
    parse_exporter_identifier,
    parse_identifier,
    parse_lease_identifier,
)
from jumpstarter.client.records import _remaining
from jumpstarter.common.enums import ExporterStatus

BEGIN = datetime(2030, 1, 1, 12, tzinfo=UTC)


def condition(kind: str, status: str, reason: str = "") -> Any:
    return kubernetes_pb2.Condition(type=kind, status=status, reason=reason)


def lease(name: str = "one", **members: Any) -> Lease:
    values: dict[str, Any] = {
        "namespace": "lab",
        "name": name,
        "selector": "board=rpi",
        "duration": timedelta(minutes=90),
        "client": "alice",
        "exporter": "",
        "conditions": [],
    }
    return Lease(**(values | members))


class Table:
    def __init__(self) -> None:
        self.columns: list[str] = []
        self.rows: list[tuple[str, ...]] = []

    def add_column(self, title: str, **_: Any) -> None:
        self.columns.append(title)

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)


def shown(model: Any) -> Table:
    table = Table()
    model.rich_add_columns(table)
    model.rich_add_rows(table)
    return table


def names(model: Any) -> list[str]:
    found: list[str] = []
    model.rich_add_names(found)
    return found


# -- names ---------------------------------------------------------------------------------------


def test_identifiers_are_taken_apart() -> None:
    assert parse_identifier("namespaces/lab/things/x", "things") == ("lab", "x")
    assert parse_client_identifier("namespaces/lab/clients/alice") == ("lab", "alice")
    assert parse_exporter_identifier("namespaces/lab/exporters/rpi") == ("lab", "rpi")
    assert parse_lease_identifier("namespaces/lab/leases/one") == ("lab", "one")


@pytest.mark.parametrize(
    "identifier", ["", "x", "namespaces/lab/leases/one", "spaces/lab/clients/x", "namespaces/lab/clients/x/y"]
)
def test_other_identifiers_are_refused_with_what_was_expected(identifier: str) -> None:
    with pytest.raises(ValueError, match="namespaces/<namespace>/clients/<name>, found "):
        parse_client_identifier(identifier)


# -- leases --------------------------------------------------------------------------------------


def test_lease_is_read_from_the_wire() -> None:
    message = client_pb2.Lease(
        name="namespaces/lab/leases/one",
        selector="board=rpi",
        client="namespaces/lab/clients/alice",
        exporter="namespaces/lab/exporters/rpi-1",
        exporter_name="rpi-1",
        tags={"job": "9"},
        conditions=[condition("Ready", "True")],
        deprecated_labels={"old": "use new"},
    )
    message.duration.FromTimedelta(timedelta(minutes=5))
    message.effective_begin_time.FromDatetime(BEGIN)
    read = Lease.from_protobuf(message)
    assert (read.namespace, read.name, read.client, read.exporter) == ("lab", "one", "alice", "rpi-1")
    assert (read.exporter_name, read.tags, read.deprecated_labels) == ("rpi-1", {"job": "9"}, {"old": "use new"})
    assert (read.duration, read.effective_begin_time) == (timedelta(minutes=5), BEGIN)
    assert (read.begin_time, read.effective_end_time, read.effective_duration) == (None, None, None)
    assert read.is_ready()


def test_what_is_not_set_on_the_wire_is_none_or_empty() -> None:
    read = Lease.from_protobuf(client_pb2.Lease(name="namespaces/lab/leases/one"))
    assert (read.duration, read.client, read.exporter, read.exporter_name) == (None, "", "", None)


@pytest.mark.parametrize(
    ("conditions", "ended", "expected"),
    [
        ([], False, "Unknown"),
        ([condition("Ready", "True")], False, "In-Use"),
        ([condition("Ready", "False")], False, "Waiting"),
        ([condition("Ready", "True"), condition("Pending", "True", "NotAvailable")], False, "NotAvailable"),
        ([condition("Expired", "True")], False, "Expired"),
        ([condition("Pending", "True")], False, "Unknown"),
        ([condition("Ready", "True")], True, "Ended"),
    ],
)
def test_status_is_told_by_the_last_condition(conditions: list[Any], ended: bool, expected: str) -> None:
    assert lease(conditions=conditions, effective_end_time=BEGIN if ended else None).get_status() == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, None),
        ({"begin_time": BEGIN}, BEGIN + timedelta(minutes=90)),
        ({"begin_time": BEGIN, "effective_begin_time": BEGIN + timedelta(hours=1)}, BEGIN + timedelta(minutes=150)),
        ({"effective_begin_time": BEGIN, "effective_end_time": BEGIN + timedelta(1)}, BEGIN + timedelta(1)),
        ({"effective_begin_time": BEGIN, "duration": None}, None),
    ],
)
def test_expiry(members: dict[str, Any], expected: datetime | None) -> None:
    assert lease(**members).expires_at() == expected


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (timedelta(days=1, hours=2, minutes=5, seconds=30), "1d 2h 5m"),
        (timedelta(days=2, seconds=30), "2d"),
        (timedelta(hours=1, minutes=1, seconds=30), "1h 1m"),
        (timedelta(seconds=30), "0m"),
        (timedelta(seconds=-1), "expired"),
        (None, ""),
    ],
)
def test_time_that_remains(left: timedelta | None, expected: str) -> None:
    assert _remaining(datetime.now(UTC) + left if left is not None else None) == expected


def test_lease_is_dumped_with_seconds_and_plain_conditions() -> None:
    one = lease(conditions=[condition("Ready", "True", "Ready")], effective_begin_time=BEGIN)
    dumped = json.loads(LeaseList(leases=[one], next_page_token="2").dump_json())
    assert list(dumped) == ["leases"]
    assert dumped["leases"][0]["duration"] == 5400.0
    assert dumped["leases"][0]["conditions"] == [{"type": "Ready", "status": "True", "reason": "Ready"}]
    assert yaml.safe_load(one.dump_yaml())["selector"] == "board=rpi"


def test_leases_are_shown_as_a_table() -> None:
    table = shown(LeaseList(leases=[lease(tags={"b": "2", "a": "1"}, exporter="rpi-1")]))
    assert table.columns == ["NAME", "SELECTOR", "EXPIRES AT", "REMAINING", "CLIENT", "EXPORTER", "TAGS"]
    assert table.rows == [("one", "board=rpi", "", "", "alice", "rpi-1", "a=1,b=2")]


def test_leases_are_filtered_and_lose_the_page_token() -> None:
    found = LeaseList(leases=[lease("one"), lease("two", client="bob", selector="board=imx")], next_page_token="2")
    assert names(found) == ["one", "two"]
    assert names(found.filter_by_client("bob")) == ["two"]
    assert names(found.filter_by_selector("board=rpi")) == ["one"]
    assert found.filter_by_client("bob").next_page_token is None
    assert found.filter_by_selector("board=rpi").next_page_token is None
    assert names(found.filter_by_selector(None)) == ["one", "two"]


# -- exporters -----------------------------------------------------------------------------------


def exporter(**members: Any) -> Exporter:
    values: dict[str, Any] = {"namespace": "lab", "name": "rpi-1", "labels": {"b": "2", "a": "1"}}
    return Exporter(**(values | members))


def test_exporter_is_read_from_the_wire() -> None:
    message = client_pb2.Exporter(name="namespaces/lab/exporters/rpi-1", labels={"a": "1"}, online=True, status=4)
    read = Exporter.from_protobuf(message)
    assert (read.namespace, read.name, read.labels, read.online) == ("lab", "rpi-1", {"a": "1"}, True)
    assert (read.status, read.enabled) == (ExporterStatus.LEASE_READY, True)


def test_exporter_of_an_older_controller_has_no_status() -> None:
    message = client_pb2.Exporter(name="namespaces/lab/exporters/rpi-1", enabled=False)
    assert (Exporter.from_protobuf(message).status, Exporter.from_protobuf(message).enabled) == (None, False)


def test_only_what_was_asked_for_is_dumped() -> None:
    one = exporter(lease=lease(), deprecated_labels={"a": "old"})
    plain = ExporterList(exporters=[one, exporter(name="off", enabled=False)], next_page_token="2")
    assert json.loads(plain.dump_json()) == {
        "exporters": [
            {"namespace": "lab", "name": "rpi-1", "labels": {"a": "1", "b": "2"}, "deprecated_labels": {"a": "old"}}
        ]
    }
    full = plain.model_copy(
        update={"include_online": True, "include_leases": True, "include_status": True, "include_disabled": True}
    )
    dumped = yaml.safe_load(full.dump_yaml())["exporters"]
    assert [each["name"] for each in dumped] == ["rpi-1", "off"]
    assert {"online", "status", "enabled", "lease"} <= set(dumped[0])
    assert dumped[0]["lease"]["duration"] == 5400.0


def test_exporters_are_shown_with_the_columns_that_were_asked_for() -> None:
    exporters = [
        exporter(online=True, status=ExporterStatus.AVAILABLE),
        exporter(name="off", enabled=False, lease=lease(conditions=[condition("Ready", "True")], begin_time=BEGIN)),
    ]
    plain = shown(ExporterList(exporters=exporters))
    assert (plain.columns, plain.rows) == (["NAME", "LABELS"], [("rpi-1", "a=1,b=2")])
    full = shown(
        ExporterList(
            exporters=exporters, include_online=True, include_leases=True, include_status=True, include_disabled=True
        )
    )
    assert full.columns == [
        *("NAME", "ENABLED", "ONLINE", "STATUS", "LABELS", "LEASED BY", "LEASE STATUS", "RELEASE TIME"),
    ]
    assert full.rows[0] == ("rpi-1", "yes", "yes", "AVAILABLE", "a=1,b=2", "", "Available", "")
    assert full.rows[1] == ("off", "no", "no", "UNKNOWN", "a=1,b=2", "alice", "In-Use", "2030-01-01 13:30:00")


def test_table_helpers_take_options() -> None:
    table = Table()
    add_display_columns(table, WithOptions(show_online=True))
    add_exporter_row(table, exporter(), WithOptions(show_online=True))
    assert (table.columns, table.rows) == (["NAME", "ONLINE", "LABELS"], [("rpi-1", "no", "a=1,b=2")])


def test_stub_over_several_channels_is_found_here_as_well() -> None:
    from jumpstarter.client.stub import MultipathExporterStub as home

    assert MultipathExporterStub is home
