"""The commands that tell of and change more than the published protocol knows: what they ask, and what they print."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import yaml
from click.testing import CliRunner, Result
from jumpstarter.client.controller.following import Change, ChangeKind
from jumpstarter.client.exceptions import LeaseTimeoutError
from jumpstarter.client.exporter_states import ExporterState
from jumpstarter.client.states import Holder, LeaseState, LeaseStateList
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta

from . import watching
from .jmp import jmp


def lease(name: str, **members: Any) -> LeaseState:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "namespace": "lab",
        "name": name,
        "selector": "board=rpi4",
        "duration": timedelta(minutes=30),
        "client": "alice",
        "exporter": "bench-1",
        "conditions": [],
        "effective_begin_time": now,
        "until": now + timedelta(minutes=30),
        "role": "owner",
    }
    return LeaseState(**(values | members))


def waiting(name: str) -> LeaseState:
    return lease(
        name,
        exporter="",
        effective_begin_time=None,
        until=None,
        place=2,
        waiting=3,
        holders=[Holder(exporter="bench-1", client="bob", lease="x")],
    )


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What the config asks of the controller; the calls never leave the process."""
    config = ClientConfigV1Alpha1(
        alias="alice", metadata=ObjectMeta(namespace="lab", name="alice"), endpoint="h:1", token="t"
    )
    ClientConfigV1Alpha1.save(config)
    monkeypatch.setenv("JMP_CLIENT", "alice")
    calls = Mock()
    for name in (
        "create_lease",
        "update_lease",
        "delete_lease",
        "lease_state",
        "list_lease_states",
        "share_lease",
        "exporter_state",
        "watch_leases",
        "watch_exporters",
        "follow_lease",
        "wait_for_lease",
    ):
        monkeypatch.setattr(ClientConfigV1Alpha1, name, getattr(calls, name))
    calls.update_lease.return_value = calls.share_lease.return_value = lease("one")
    return calls


def run(*args: str) -> Result:
    return CliRunner().invoke(jmp, args, prog_name="jmp")


# --- update ----------------------------------------------------------------------------------------------------------


def test_an_extension_adds_to_the_end_that_the_lease_has_now(controller: Mock) -> None:
    begin = datetime.now(UTC) - timedelta(minutes=10)
    # Its use has extended it already, beyond its duration.
    controller.lease_state.return_value = lease(
        "one", effective_begin_time=begin, until=begin + timedelta(minutes=45), duration=timedelta(minutes=30)
    )
    assert run("update", "lease", "one", "--extend", "30m", "-o", "name").stdout == "one\n"
    controller.update_lease.assert_called_once_with("one", duration=timedelta(minutes=75), begin_time=None, client=None)


def test_a_lease_that_waits_is_extended_by_its_duration(controller: Mock) -> None:
    controller.lease_state.return_value = waiting("one")
    run("update", "lease", "one", "--extend", "1h")
    assert controller.update_lease.call_args.kwargs["duration"] == timedelta(minutes=90)


def test_a_lease_that_has_ended_is_not_extended(controller: Mock) -> None:
    controller.lease_state.return_value = lease("one", ended=True)
    result = run("update", "lease", "one", "--extend", "1h", "-o", "json")
    assert (result.exit_code, json.loads(result.stderr)["reason"]) == (1, "lease-ended")
    controller.update_lease.assert_not_called()


def test_inside_a_shell_its_lease_is_meant(controller: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_LEASE", "mine")
    run("update", "lease", "--share", "bob")
    controller.share_lease.assert_called_once_with("mine", "bob", "driver")


def test_roles_are_given_and_taken_before_the_lease_is_handed_over(controller: Mock) -> None:
    result = run(
        "update",
        "lease",
        "one",
        "--share",
        "bob=watcher",
        "--share",
        "carol",
        "--unshare",
        "dave",
        "--to-client",
        "eve",
    )
    assert result.exit_code == 0
    names = [name for name, _, _ in controller.mock_calls]
    assert names == ["share_lease"] * 3 + ["update_lease"]
    assert [call.args[1:] for call in controller.share_lease.mock_calls] == [
        ("bob", "watcher"),
        ("carol", "driver"),
        ("dave", None),
    ]
    assert "shared with bob as watcher" in result.stderr
    assert "not shared with dave any more" in result.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "At least one of"),
        (("--share", "bob=boss"), "with driver or watcher"),
        (("--share", "=driver"), "can't be shared"),
        (("--share", "bob", "--unshare", "bob"), "named twice"),
        (("--extend", "1h", "--duration", "2h"), "give one of them"),
        (("--extend", "-1h"), "must be at least"),
    ],
)
def test_a_wrong_change_is_refused_before_anything_is_changed(
    args: tuple[str, ...], text: str, controller: Mock
) -> None:
    result = run("update", "lease", "one", *args)
    assert result.exit_code == 2
    assert text in result.stderr
    assert controller.mock_calls == []


# --- create --wait ---------------------------------------------------------------------------------------------------

REQUEST = ("create", "lease", "-n", "bench-1", "--duration", "1h", "--wait")


@pytest.fixture
def waits(controller: Mock) -> Mock:
    controller.create_lease = AsyncMock(return_value=lease("one"))
    controller.wait_for_lease = AsyncMock(return_value=lease("one"))
    controller.delete_lease = AsyncMock()
    for name in ("create_lease", "wait_for_lease", "delete_lease"):
        setattr(ClientConfigV1Alpha1, name, getattr(controller, name))
    return controller


def test_a_lease_is_printed_when_it_has_its_exporter(waits: Mock) -> None:
    result = run(*REQUEST, "--timeout", "10m", "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "one\n")
    waits.wait_for_lease.assert_awaited_once_with("one", timedelta(minutes=10))
    waits.delete_lease.assert_not_awaited()


def test_a_wait_that_takes_too_long_withdraws_the_request(waits: Mock) -> None:
    waits.wait_for_lease.side_effect = LeaseTimeoutError("lease one: no exporter was acquired within 10 s")
    result = run(*REQUEST)
    assert result.exit_code == 1
    assert "no exporter was acquired within 10 s" in result.stderr
    waits.delete_lease.assert_awaited_once_with(name="one")


def test_a_lease_of_a_name_that_is_taken_already_is_left_alone(waits: Mock) -> None:
    waits.create_lease.side_effect = ConnectionError("lease taken exists")
    assert run(*REQUEST, "--lease-id", "taken").exit_code == 1
    waits.delete_lease.assert_not_awaited()


def away() -> ConnectionError:
    error = ConnectionError("can't reach the controller: connection refused")
    error.status = "UNAVAILABLE"
    return error


def exists() -> ConnectionError:
    error = ConnectionError("the controller refuses")
    error.status, error.details = "ALREADY_EXISTS", "leases one already exists"
    return error


def test_a_request_is_made_although_the_controller_restarts_meanwhile(waits: Mock) -> None:
    waits.create_lease.side_effect = [away(), lease("one")]
    waits.wait_for_lease.side_effect = [away(), lease("one")]
    result = run(*REQUEST, "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "one\n")
    assert result.stderr.count("can't reach the controller: connection refused; trying again") == 2
    first, second = (call.kwargs["lease_id"] for call in waits.create_lease.await_args_list)
    assert first == second
    waits.delete_lease.assert_not_awaited()


def test_a_request_whose_answer_got_lost_is_not_made_twice(waits: Mock) -> None:
    waits.create_lease.side_effect = [away(), exists()]
    assert run(*REQUEST).exit_code == 0
    name = waits.create_lease.await_args.kwargs["lease_id"]
    assert waits.wait_for_lease.await_args.args[0] == name


def test_a_controller_that_stays_away_is_told_and_the_request_withdrawn(
    waits: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter_cli.waiting.CREATION_TIMEOUT", 0.0)
    waits.create_lease.side_effect = away()
    waits.delete_lease.side_effect = [away(), None]
    result = run(*REQUEST)
    assert result.exit_code == 1
    assert "can't reach the controller" in result.stderr
    assert waits.delete_lease.await_count == 2


def test_a_lease_that_is_refused_while_it_is_waited_for_is_not_waited_for_again(waits: Mock) -> None:
    waits.wait_for_lease.side_effect = LeaseTimeoutError("lease one: no exporter was acquired within 10 s")
    assert run(*REQUEST).exit_code == 1
    waits.wait_for_lease.assert_awaited_once()


def test_a_time_limit_needs_a_wait(controller: Mock) -> None:
    result = run("create", "lease", "-n", "bench-1", "--duration", "1h", "--timeout", "10s")
    assert result.exit_code == 2
    assert "--timeout belongs to --wait" in result.stderr
    assert controller.mock_calls == []


# --- get -------------------------------------------------------------------------------------------------------------


def test_one_lease_is_told_in_words(controller: Mock) -> None:
    controller.lease_state.return_value = waiting("one")
    result = run("get", "lease", "one")
    assert result.exit_code == 0
    assert "Status:     Waiting: place 2 of 3 in the queue; bench-1 is used by bob\n" in result.stdout


def test_one_lease_is_told_as_an_object(controller: Mock) -> None:
    controller.lease_state.return_value = waiting("one")
    told = json.loads(run("get", "lease", "one", "-o", "json").stdout)
    assert (told["name"], told["place"], told["holders"][0]["client"], told["role"]) == ("one", 2, "bob", "owner")


def test_one_exporter_is_told(controller: Mock) -> None:
    controller.exporter_state.return_value = ExporterState(
        namespace="lab", name="bench-1", labels={"a": "1"}, lease_name="one", leased_by="bob", waiting=2
    )
    assert "Leased by:  bob, lease one\n" in run("get", "exporter", "bench-1").stdout
    told = yaml.safe_load(run("get", "exporter", "bench-1", "-o", "yaml").stdout)
    assert (told["leased_by"], told["waiting"], "lease" in told) == ("bob", 2, False)


def test_a_name_and_a_choice_exclude_each_other(controller: Mock) -> None:
    result = run("get", "lease", "one", "-l", "a=b")
    assert (result.exit_code, "--selector can't be used with it" in result.stderr) == (2, True)
    assert controller.mock_calls == []


def test_the_wide_table_tells_places_and_holders(controller: Mock) -> None:
    controller.list_lease_states.return_value = LeaseStateList(leases=[waiting("one")])
    lines = run("get", "leases", "-o", "wide").stdout.splitlines()
    assert lines[0].split()[:8] == ["NAME", "SELECTOR", "EXPIRES", "AT", "REMAINING", "CLIENT", "EXPORTER", "TAGS"]
    assert "2 of 3" in lines[1]
    assert "bench-1: bob" in lines[1]
    controller.list_lease_states.assert_called_once_with(filter=None, only_active=True, tag_filter=None, client="alice")


# --- watch -----------------------------------------------------------------------------------------------------------


def changes(*items: Change[Any]) -> Any:
    async def iterate() -> Any:
        for item in items:
            yield item

    return iterate()


STORY = (
    Change(ChangeKind.PUT, lease("one")),
    Change(ChangeKind.CURRENT),
    Change(ChangeKind.PUT, waiting("two")),
    Change(ChangeKind.LOST, text="can't reach the controller"),
    Change(ChangeKind.LOST, text="can't reach the controller"),
    Change(ChangeKind.DELETED, lease("one")),
)


def test_changes_are_lines_below_a_header(controller: Mock) -> None:
    controller.watch_leases.return_value = changes(*STORY)
    result = run("get", "leases", "--watch")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["EVENT", "NAME"], ["added", "one"], ["added", "two"], ["deleted", "one"]]
    assert result.stderr.splitlines() == [
        "Warning: can't reach the controller; trying again.",
        "The controller is back.",
    ]


def test_an_exporter_that_was_disabled_is_told_as_gone(controller: Mock) -> None:
    exporter = ExporterState(namespace="lab", name="bench-1", labels={}, leased_by="bob", lease_name="one")
    controller.watch_exporters.return_value = changes(
        Change(ChangeKind.PUT, exporter),
        Change(ChangeKind.CURRENT),
        Change(ChangeKind.DELETED, exporter.model_copy(update={"enabled": False})),
    )
    header, *rows = run("get", "exporters", "--watch").stdout.splitlines()
    assert header.split()[:5] == ["EVENT", "NAME", "ONLINE", "STATUS", "LABELS"]
    assert [row.split()[:3] for row in rows] == [["added", "bench-1", "no"], ["deleted", "bench-1", "no"]]
    assert all("bob" in row for row in rows)


def test_changes_are_an_object_per_line(controller: Mock) -> None:
    controller.watch_leases.return_value = changes(*STORY)
    events = [json.loads(line) for line in run("get", "leases", "-w", "-A", "-o", "json").stdout.splitlines()]
    assert [(event["event"], event["lease"]["name"]) for event in events] == [
        ("added", "one"),
        ("added", "two"),
        ("deleted", "one"),
    ]
    assert controller.watch_leases.call_args.kwargs["client"] == ""


def test_changes_are_yaml_documents(controller: Mock) -> None:
    controller.watch_leases.return_value = changes(*STORY)
    events = list(yaml.safe_load_all(run("get", "leases", "-w", "-o", "yaml").stdout))
    assert [event["lease"]["place"] for event in events] == [0, 2, 0]


def test_a_refusal_is_told_in_the_usual_way(controller: Mock) -> None:
    async def refuse() -> Any:
        raise ConnectionError("permission denied by the controller")
        yield

    controller.watch_leases.return_value = refuse()
    result = run("get", "leases", "-w")
    assert result.exit_code == 1
    assert "Error: permission denied by the controller" in result.stderr


@pytest.mark.parametrize(
    ("line", "width", "shown"), [("short", 5, "short"), ("too long", 5, "too …"), ("日本語", 5, "日本…")]
)
def test_lines_are_cropped_to_the_width_of_the_terminal(line: str, width: int, shown: str) -> None:
    assert watching._cropped(line, width) == shown


def test_a_terminal_shows_a_table_that_is_drawn_over_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jumpstarter_cli_common.table import Table

    from .get import _table

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    draw = _table(lambda items: LeaseStateList.model_construct(leases=items), None)
    assert isinstance(draw([]), Table)
    live = watching._Live(draw)
    for number in range(8):
        live._take(Change(ChangeKind.PUT, lease(f"lease-{number}")))
    live._draw()
    first = capsys.readouterr().out.splitlines()
    assert len(first) == 5
    assert all(len(line) <= 60 for line in first)
    assert first[-1] == "… and 5 more"
    live._take(Change(ChangeKind.LOST, text="away"))
    live._draw()
    second = capsys.readouterr().out
    assert second.startswith("\x1b[5F\x1b[J")
    assert "trying again: away" in second
