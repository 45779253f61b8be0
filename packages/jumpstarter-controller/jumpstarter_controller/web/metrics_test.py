"""The metrics count what happens in a lab, once, with few and bounded labels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from jumpstarter_protocol import router_pb2, router_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from jumpstarter_controller.lab import Actor
from jumpstarter_controller.model.records import Condition, ExporterStatus, Lease, Meta
from jumpstarter_controller.testing import Login
from jumpstarter_controller.web import metrics as metrics_module
from jumpstarter_controller.web.conftest import Web, serving
from jumpstarter_controller.web.metrics import exemplar, outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def value(text: str, name: str, **labels: str) -> float:
    """Return the one value with these labels."""
    (found,) = [
        sample.value for sample in samples(text) if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def series(text: str, name: str) -> set[tuple[str, ...]]:
    """Return the labels of all series of a name."""
    return {tuple(text for _, text in sorted(sample.labels.items())) for sample in samples(text) if sample.name == name}


async def until(web: Web, wanted: float, name: str, **labels: str) -> None:
    """Wait until a value is as wanted."""
    found = None
    with anyio.move_on_after(10):
        while found != wanted:
            found = value(await web.metrics(), name, **labels)
    assert found == wanted


async def test_O01_results_are_there_from_the_start_and_count_each_lease_once(web: Web, alice: Login) -> None:
    text = await web.metrics()
    acquisitions = "jumpstarter_lease_acquisitions_total"
    assert value(text, acquisitions, result="success") == 0
    assert value(text, acquisitions, result="failure") == 0
    board = await web.board("board", labels={"board": "demo"})
    lease = await web.lease(alice, selector="board=demo", duration=timedelta(hours=1))
    lost = await web.lease(alice, selector="board=other", duration=timedelta(hours=1))
    await web.running.until(lost.key, lambda record: record.ended)
    await web.running.lab.report_status(Actor(kind="exporter", key=board.key), ExporterStatus.LEASE_READY)
    await web.running.lab.release_lease(Actor(kind="client", key=alice.key), lease.key)
    await until(web, 1, acquisitions, result="success")
    await until(web, 1, acquisitions, result="failure")
    text = await web.metrics()
    (found,) = [
        sample.exemplar
        for sample in samples(text)
        if sample.name == acquisitions and sample.labels["result"] == "success"
    ]
    assert found is not None
    assert list(found.labels.items()) == [("client", "alice"), ("lease_id", lease.meta.name)]


@pytest.mark.parametrize(("client", "name"), [(63, 253), (200, 40), (5, 300), (500, 500), (3, 36)])
def test_O02_exemplars_are_cut_to_what_they_may_have(client: int, name: int) -> None:
    lease = Lease(meta=Meta(namespace="default", name="l" * name), client="c" * client)
    found = exemplar(lease)
    assert list(found) == ["client", "lease_id"]
    assert sum(len(key) + len(text) for key, text in found.items()) <= 128
    assert all(found.values())
    assert found["client"] == "c" * min(client, len(found["client"]))


async def test_O02_leases_with_long_names_are_counted(web: Web) -> None:
    client = await web.running.client("c" * 63)
    await web.board("board")
    await web.lease(client, exporter_name="board", duration=timedelta(hours=1), name="l" * 63)
    await until(web, 1, "jumpstarter_lease_acquisitions_total", result="success")


async def test_leases_are_counted_by_how_they_end(web: Web, alice: Login) -> None:
    await web.board("board", labels={"board": "demo"})
    actor = Actor(kind="client", key=alice.key)
    held = await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    waiting = await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    await until(web, 1, "jumpstarter_leases", state="active")
    await until(web, 1, "jumpstarter_leases", state="pending")
    await web.running.lab.release_lease(actor, waiting.key)
    await web.running.lab.release_lease(actor, held.key)
    brief = await web.lease(alice, exporter_name="board", duration=timedelta(milliseconds=50))
    await web.running.until(brief.key, lambda record: record.ended)
    for ending in ("released", "cancelled", "expired"):
        await until(web, 1, "jumpstarter_leases_ended_total", outcome=ending)
    await until(web, 0, "jumpstarter_leases", state="active")
    text = await web.metrics()
    assert value(text, "jumpstarter_leases_ended_total", outcome="unsatisfiable") == 0


async def test_waiting_and_granting_are_measured(web: Web, alice: Login) -> None:
    await web.board("board")
    actor = Actor(kind="client", key=alice.key)
    first = await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    second = await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    await anyio.sleep(0.6)  # what is measured
    await web.running.lab.release_lease(actor, first.key)
    await web.running.until(second.key, lambda record: record.exporter)
    text = await web.metrics()
    assert value(text, "jumpstarter_lease_wait_seconds_count") == 2
    assert value(text, "jumpstarter_lease_wait_seconds_sum") >= 0.6
    assert value(text, "jumpstarter_lease_wait_seconds_bucket", le="0.5") == 1
    # The second one could have the board only when it was free again.
    assert value(text, "jumpstarter_lease_grant_seconds_count") == 2
    assert value(text, "jumpstarter_lease_grant_seconds_sum") < 0.5
    assert value(text, "jumpstarter_store_commit_seconds_count") > 3


async def test_leased_time_grows_for_the_exporter_that_is_leased(web: Web, alice: Login) -> None:
    await web.board("busy")
    await web.board("idle")
    lease = await web.lease(alice, exporter_name="busy", duration=timedelta(hours=1))
    name = "jumpstarter_exporter_leased_seconds_total"
    first = value(await web.metrics(), name, exporter="busy")
    await anyio.sleep(0.3)  # what is measured
    text = await web.metrics()
    assert value(text, name, exporter="busy") >= first + 0.3
    assert value(text, name, exporter="idle") == 0
    await web.running.lab.release_lease(Actor(kind="client", key=alice.key), lease.key)
    last = value(await web.metrics(), name, exporter="busy")
    assert value(await web.metrics(), name, exporter="busy") == last
    assert value(text, "jumpstarter_exporters", state="leased") == 1
    assert value(text, "jumpstarter_exporters", state="free") == 1
    assert value(text, "jumpstarter_exporters_connected") == 2


async def test_the_number_of_series_is_bounded(web: Web, alice: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_EXPORTERS", 2)
    for name in ("a", "b", "c", "d"):
        await web.board(name)
        await web.lease(alice, exporter_name=name, duration=timedelta(hours=1), name=f"lease-{name}")
    text = await web.metrics()
    found = series(text, "jumpstarter_exporter_leased_seconds_total")
    assert found == {("a", "default"), ("b", "default"), ("_other", "_other")}
    assert value(text, "jumpstarter_exporter_leased_seconds_total", exporter="_other") > 0
    labels = {label for sample in samples(text) for label in sample.labels}
    assert not labels & {"lease", "client", "lease_id"}


async def test_a_deleted_exporter_has_no_series(web: Web, alice: Login) -> None:
    from jumpstarter_controller.testing import SERVER

    login = await web.board("board")
    lease = await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    await web.running.lab.delete_account(SERVER, login.key)
    await web.running.until(lease.key, lambda record: record.ended)
    assert series(await web.metrics(), "jumpstarter_exporter_leased_seconds_total") == set()


async def test_streams_and_bytes_through_the_router_are_counted(web: Web) -> None:
    tokens = web.running.server.relay
    assert tokens.counters().streams == 0
    from jumpstarter_controller.identity.streams import StreamTokens

    server = web.running.server
    issue = StreamTokens(server.keys.stream, server.clock).issue
    credentials = [
        (("authorization", f"Bearer {issue('one', lease='l', client='c', exporter='e', role='owner', side=side)}"),)
        for side in ("client", "exporter")
    ]
    login = await web.running.client("alice")
    async with login.channel() as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        one, other = (stub.Stream(metadata=metadata) for metadata in credentials)
        await one.write(router_pb2.StreamRequest(payload=b"x" * 1000))
        assert (await other.read()).payload == b"x" * 1000
        await until(web, 1, "jumpstarter_router_open_streams", router="built-in")
        await one.done_writing()
        await other.done_writing()
        with anyio.fail_after(10):
            while await one.read() or await other.read():
                pass
    await until(web, 0, "jumpstarter_router_open_streams", router="built-in")
    text = await web.metrics()
    assert value(text, "jumpstarter_router_streams_total", router="built-in") == 1
    assert value(text, "jumpstarter_router_bytes_total", router="built-in") >= 1000
    assert value(text, "jumpstarter_router_up", router="built-in") == 1


async def test_audit_entries_that_are_lost_are_counted(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value(await web.metrics(), "jumpstarter_audit_dropped_entries_total") == 0
    monkeypatch.setattr("jumpstarter_controller.engine.auditing.MAXIMUM_WAITING", 0)
    web.running.lab.audit(Actor(kind="server", key=None), "test.drop")
    assert value(await web.metrics(), "jumpstarter_audit_dropped_entries_total") == 1


async def test_what_was_there_before_the_start_is_no_event(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        alice = await web.running.client("alice")
        await web.board("board")
        await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    async with serving(tmp_path) as web:
        text = await web.metrics()
        assert value(text, "jumpstarter_leases", state="active") == 1
        assert value(text, "jumpstarter_lease_acquisitions_total", result="success") == 0
        assert value(text, "jumpstarter_lease_wait_seconds_count") == 0
        assert value(text, "jumpstarter_exporter_leased_seconds_total", exporter="board") < 60


async def test_prometheus_gets_either_form(web: Web) -> None:
    plain = await web.metrics(accept="text/plain")
    assert "# TYPE jumpstarter_lease_acquisitions_total counter" in plain
    assert (await web.metrics()).endswith("# EOF\n")
    assert "_created" not in plain


async def test_metrics_are_on_their_own_port_alone(web: Web, root: Login) -> None:
    assert (await web.ask("GET", "/metrics", root)).status == 404
    async with web.session.get(f"http://127.0.0.1:{web.running.server.metrics_port}/dashboard") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("exporter", "conditions", "expected"),
    [
        ("board", [("Ready", "False", "Released")], "released"),
        ("board", [("Ready", "False", "Expired")], "expired"),
        ("", [("Ready", "False", "Released")], "cancelled"),
        ("", [("Unsatisfiable", "True", "NoExporter"), ("Ready", "False", "")], "unsatisfiable"),
        ("", [("Unsatisfiable", "True", "Expired"), ("Ready", "False", "Expired")], "expired"),
        ("", [("Invalid", "True", "Whatever")], "invalid"),
    ],
)
def test_outcomes_follow_from_the_conditions(
    exporter: str, conditions: list[tuple[str, str, str]], expected: str
) -> None:
    lease = Lease(
        meta=Meta(namespace="default", name="lease"),
        client="alice",
        exporter=exporter,
        ended=True,
        conditions=tuple(
            Condition(type=kind, status=status, reason=reason, since=NOW) for kind, status, reason in conditions
        ),
    )
    assert outcome(lease) == expected
