"""Records of custom resources: read from what API servers send, also when half of it is missing, and dumped."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from kubernetes_asyncio.client import V1ObjectMeta, V1ObjectReference

from jumpstarter_kubernetes import (
    V1Alpha1Client,
    V1Alpha1ClientList,
    V1Alpha1ClientStatus,
    V1Alpha1Exporter,
    V1Alpha1ExporterAccessPolicy,
    V1Alpha1ExporterDevice,
    V1Alpha1ExporterList,
    V1Alpha1ExporterStatus,
    V1Alpha1Lease,
    V1Alpha1LeaseList,
)

META = {
    "creationTimestamp": "2026-01-01T21:00:00Z",
    "generation": 1,
    "name": "test",
    "namespace": "lab",
    "resourceVersion": "1",
    "uid": "7a25eb81-6443-47ec-a62f-50165bffede8",
}
FRESH = {"metadata": {"name": "fresh"}}


class Table:
    """What rich's tables are to records."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.rows: list[tuple[str, ...]] = []

    def add_column(self, title: str, **_: Any) -> None:
        self.titles.append(title)

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)


def table(record: Any, **options: Any) -> Table:
    made = Table()
    record.rich_add_columns(made, **options)
    record.rich_add_rows(made, **options)
    assert all(len(row) == len(made.titles) for row in made.rows)
    return made


def names(record: Any) -> list[str]:
    found: list[str] = []
    record.rich_add_names(found)
    return found


def meta(**more: Any) -> V1ObjectMeta:
    return V1ObjectMeta(
        creation_timestamp=META["creationTimestamp"],
        generation=1,
        name="test",
        namespace="lab",
        resource_version="1",
        uid=META["uid"],
        **more,
    )


CLIENT = V1Alpha1Client(
    metadata=meta(),
    status=V1Alpha1ClientStatus(credential=V1ObjectReference(name="test-client"), endpoint="grpc.lab:443"),
)


def test_a_client_is_dumped_as_kubernetes_spells_it() -> None:
    wanted = {
        "apiVersion": "jumpstarter.dev/v1alpha1",
        "kind": "Client",
        "metadata": META,
        "status": {"credential": {"name": "test-client"}, "endpoint": "grpc.lab:443"},
    }
    assert json.loads(CLIENT.dump_json()) == wanted
    assert list(json.loads(CLIENT.dump_json())) == list(wanted)
    assert CLIENT.dump_json().startswith('{\n    "apiVersion"')
    assert yaml.safe_load(CLIENT.dump_yaml()) == wanted


def test_what_was_dumped_is_read_again() -> None:
    assert V1Alpha1Client.from_dict(json.loads(CLIENT.dump_json())) == CLIENT


def test_labels_and_user_name_of_a_client_are_kept() -> None:
    client = V1Alpha1Client.from_dict(
        {"metadata": {**META, "labels": {"team": "a"}}, "spec": {"username": "dex:alice"}}
    )
    dumped = json.loads(client.dump_json())
    assert dumped["metadata"]["labels"] == {"team": "a"}
    assert dumped["spec"] == {"username": "dex:alice"}
    assert dumped["status"] is None


def test_a_list_of_clients_says_so() -> None:
    dumped = json.loads(V1Alpha1ClientList(items=[CLIENT]).dump_json())
    assert list(dumped) == ["apiVersion", "items", "kind"]
    assert dumped["kind"] == "ClientList"
    assert V1Alpha1ClientList.from_dict({}).items == []


def test_clients_are_shown() -> None:
    shown = table(V1Alpha1ClientList(items=[CLIENT, V1Alpha1Client.from_dict(FRESH)]))
    assert shown.titles == ["NAME", "ENDPOINT"]
    assert shown.rows == [("test", "grpc.lab:443"), ("fresh", "")]
    assert names(CLIENT) == ["client.jumpstarter.dev/test"]


def test_an_exporter_that_no_controller_has_seen_is_read() -> None:
    exporter = V1Alpha1Exporter.from_dict(FRESH)
    assert exporter.status == V1Alpha1ExporterStatus(devices=[], endpoint="")
    assert table(exporter).rows == [("fresh", "Unknown", "", "0", "")]
    assert json.loads(exporter.dump_json())["status"] == {
        "credential": None,
        "devices": [],
        "endpoint": "",
        "exporterStatus": None,
        "statusMessage": None,
    }


def test_exporters_and_their_devices_are_shown() -> None:
    device = V1Alpha1ExporterDevice(labels={"b": "2", "a": "1"}, uuid="u-1")
    status = V1Alpha1ExporterStatus(devices=[device], endpoint="grpc.lab:443", exporterStatus="Available")
    found = V1Alpha1ExporterList(items=[V1Alpha1Exporter(metadata=meta(), status=status)])
    assert table(found).titles == ["NAME", "STATUS", "ENDPOINT", "DEVICES", "AGE"]
    assert table(found).rows[0][:4] == ("test", "Available", "grpc.lab:443", "1")
    shown = table(found, devices=True)
    assert shown.titles == ["NAME", "STATUS", "ENDPOINT", "AGE", "LABELS", "UUID"]
    assert shown.rows[0][4:] == ("a:1,b:2", "u-1")
    assert names(found) == ["exporter.jumpstarter.dev/test"]


LEASE: dict[str, Any] = {
    "metadata": META,
    "spec": {"clientRef": {"name": "alice"}, "duration": "1h0m0s", "selector": {"matchLabels": {"board": "x"}}},
    "status": {
        "ended": False,
        "beginTime": "2026-01-01T21:00:00Z",
        "exporterRef": {"name": "board-1"},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T21:00:00Z",
            }
        ],
    },
}


def test_leases_are_shown() -> None:
    lease = V1Alpha1Lease.from_dict(LEASE)
    shown = table(V1Alpha1LeaseList(items=[lease]))
    titles = "NAME CLIENT SELECTOR EXPORTER DURATION STATUS REASON BEGIN END AGE"
    assert shown.titles == titles.split()
    begin = "2026-01-01T21:00:00Z"
    assert shown.rows[0][:9] == ("test", "alice", "board:x", "board-1", "1h0m0s", "InProgress", "Ready", begin, "")
    assert names(lease) == ["lease.jumpstarter.dev/test"]
    assert json.loads(lease.dump_json())["spec"]["client"] == {"name": "alice"}


def test_a_lease_that_no_controller_has_seen_is_read() -> None:
    lease = V1Alpha1Lease.from_dict({**FRESH, "spec": {"clientRef": {"name": "alice"}, "exporterRef": {"name": "x"}}})
    assert lease.get_reason() == "Unknown"
    assert table(lease).rows[0][2] == "*"
    assert not lease.status.ended


@pytest.mark.parametrize(
    ("status", "reason", "shown"),
    [
        ("True", "Ready", "Ready"),
        ("False", "Ready", "Waiting"),
        ("True", "Expired", "Expired"),
        ("False", "Expired", "Complete"),
        ("False", "Released", "Released"),
    ],
)
def test_the_reason_of_a_lease_is_that_of_its_last_condition(status: str, reason: str, shown: str) -> None:
    condition = {"type": "Ready", "status": status, "reason": reason}
    assert V1Alpha1Lease.from_dict({**LEASE, "status": {"conditions": [condition]}}).get_reason() == shown


@pytest.mark.parametrize(
    ("spec", "error"), [("text", TypeError), ({}, KeyError), ({"clientRef": {}}, KeyError)], ids=str
)
def test_what_is_no_lease_is_refused(spec: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        V1Alpha1Lease.from_dict({"metadata": META, "spec": spec})


def test_a_selector_of_expressions_is_kept() -> None:
    expressions = [{"key": "board", "operator": "Exists"}]
    spec = {**LEASE["spec"], "selector": {"matchExpressions": expressions}}
    dumped = json.loads(V1Alpha1Lease.from_dict({**LEASE, "spec": spec}).dump_json())
    assert dumped["spec"]["selector"] == {"matchLabels": {}, "matchExpressions": expressions}


def test_a_policy_can_be_applied_as_it_was_dumped() -> None:
    spec = {
        "exporterSelector": {"matchLabels": {"board": "x"}},
        "policies": [
            {"priority": 10, "from": [{"clientSelector": {}}], "maximumDuration": "1h", "description": "all of us"}
        ],
    }
    policy = V1Alpha1ExporterAccessPolicy.from_dict({"metadata": META, "spec": spec})
    assert yaml.safe_load(policy.dump_yaml())["spec"] == spec
    assert table(policy).rows == [("test", "board:x", "1")]
    assert names(policy) == ["exporteraccesspolicy.jumpstarter.dev/test"]


def test_importing_the_package_does_not_load_the_client_library() -> None:
    code = "import sys, jumpstarter_kubernetes; sys.exit('kubernetes_asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_that_is_promised_can_be_imported() -> None:
    import jumpstarter_kubernetes

    assert all(getattr(jumpstarter_kubernetes, name) is not None for name in jumpstarter_kubernetes.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jumpstarter_kubernetes.nothing  # type: ignore[attr-defined]
