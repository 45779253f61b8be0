"""The commands for leases and exporters: what they ask of the config, and what they print."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import click
import pytest
from click.testing import CliRunner, Result
from jumpstarter.client.grpc import Exporter, ExporterList, Lease, LeaseList
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta

from .jmp import jmp


def lease(name: str, client: str = "alice") -> Lease:
    return Lease(
        namespace="lab",
        name=name,
        selector="board=rpi4",
        duration=timedelta(minutes=30),
        client=client,
        exporter="bench-1",
        conditions=[],
        effective_begin_time=datetime.now(UTC),
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
    calls.list_leases.return_value = LeaseList(leases=[lease("one"), lease("two", "bob")], next_page_token=None)
    calls.create_lease.return_value = lease("new")
    calls.update_lease.return_value = lease("one")
    for name in ("create_lease", "update_lease", "delete_lease", "list_leases", "list_exporters"):
        monkeypatch.setattr(ClientConfigV1Alpha1, name, getattr(calls, name))
    return calls


def run(*args: str) -> Result:
    return CliRunner().invoke(jmp, args, prog_name="jmp")


# --- create ----------------------------------------------------------------------------------------------------------


def test_a_lease_is_requested_with_what_was_given(controller: Mock) -> None:
    result = run("create", "lease", "-l", "a=b", "-l", "!c", "--duration", "1h30m", "--tag", "ci=1", "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "new\n")
    controller.create_lease.assert_called_once_with(
        selector="a=b,!c",
        exporter_name=None,
        duration=timedelta(minutes=90),
        begin_time=None,
        lease_id=None,
        tags={"ci": "1"},
        allow_disabled=False,
    )


@pytest.mark.usefixtures("controller")
def test_the_resolved_duration_is_printed() -> None:
    result = run("create", "leases", "-n", "bench-1", "--duration", "01:30")
    assert result.exit_code == 0
    assert "Requested for 1m30s." in result.stderr
    assert result.stdout.split()[:2] == ["NAME", "SELECTOR"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--duration", "1h"), "one of --selector/-l or --name/-n is required"),
        (("-l", "a=b"), "Missing option '--duration'"),
        (("-l", "a=b", "--duration", "0"), "must be at least 1 seconds"),
        (("-l", "a=b", "--duration", "soon"), "is not a valid duration"),
        (("-l", "a=b", "--duration", "1h", "--tag", "x"), "Invalid tag format"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_asked_for(
    args: tuple[str, ...], text: str, controller: Mock
) -> None:
    result = run("create", "lease", *args)
    assert result.exit_code == 2
    assert text in result.stderr
    controller.create_lease.assert_not_called()


def test_deprecated_labels_are_warned_of(controller: Mock) -> None:
    controller.create_lease.return_value = lease("new").model_copy(
        update={"deprecated_labels": {"board": "use model", "old": ""}}
    )
    result = run("create", "lease", "-l", "board=x", "--duration", "1h")
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert warnings == ["Warning: label 'board' is deprecated: use model", "Warning: label 'old' is deprecated"]


# --- update ----------------------------------------------------------------------------------------------------------


def test_a_lease_is_changed_in_what_was_given(controller: Mock) -> None:
    assert run("update", "lease", "one", "--to-client", "bob", "-o", "name").exit_code == 0
    controller.update_lease.assert_called_once_with(
        "one", duration=None, begin_time=None, client="namespaces/lab/clients/bob"
    )


def test_a_change_of_nothing_is_refused(controller: Mock) -> None:
    result = run("update", "lease", "one")
    assert result.exit_code == 2
    assert "At least one of" in result.stderr
    controller.update_lease.assert_not_called()


# --- delete ----------------------------------------------------------------------------------------------------------


def test_named_leases_are_released_in_order(controller: Mock) -> None:
    result = run("delete", "lease", "b", "a", "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "b\na\n")
    assert controller.delete_lease.mock_calls == [call(name="b"), call(name="a")]


def test_all_means_all_of_this_client(controller: Mock) -> None:
    assert 'lease "one" deleted' in run("delete", "leases", "-a").stdout
    controller.delete_lease.assert_called_once_with(name="one")


def test_all_clients_means_everybody(controller: Mock) -> None:
    run("delete", "leases", "-A", "-l", "board=rpi4")
    controller.list_leases.assert_called_once_with(filter="board=rpi4")
    assert controller.delete_lease.mock_calls == [call(name="one"), call(name="two")]


def test_a_choice_is_needed(controller: Mock) -> None:
    result = run("delete", "leases")
    assert result.exit_code == 1
    assert "One of NAMES, --selector, --all or --all-clients must be specified" in result.stderr
    controller.delete_lease.assert_not_called()


def test_a_choice_that_matches_nothing_is_a_failure(controller: Mock) -> None:
    controller.list_leases.return_value = LeaseList(leases=[], next_page_token=None)
    result = run("delete", "leases", "--all")
    assert result.exit_code == 1
    assert "no leases found matching the criteria" in result.stderr


# --- get -------------------------------------------------------------------------------------------------------------


def test_leases_of_this_client_are_listed(controller: Mock) -> None:
    result = run("get", "leases", "-o", "name")
    assert result.stdout == "one\n"
    controller.list_leases.assert_called_once_with(filter=None, only_active=True, tag_filter=None)


def test_ended_leases_and_those_of_others_are_listed_on_request(controller: Mock) -> None:
    result = run("get", "lease", "-a", "-A", "--tag-filter", "ci=1", "-o", "name")
    assert result.stdout == "one\ntwo\n"
    controller.list_leases.assert_called_once_with(filter=None, only_active=False, tag_filter="ci=1")


def test_an_empty_list_is_no_failure(controller: Mock) -> None:
    controller.list_leases.return_value = LeaseList(leases=[], next_page_token=None)
    table = run("get", "leases")
    assert (table.exit_code, table.stderr) == (0, "No resources found.\n")
    assert table.stdout.startswith("NAME")
    assert json.loads(run("get", "leases", "-o", "json").stdout) == {"leases": []}


def test_exporters_are_listed_with_what_was_asked_for(controller: Mock) -> None:
    controller.list_exporters.return_value = ExporterList(
        exporters=[Exporter(namespace="lab", name="bench-1", labels={"b": "2", "a": "1"})], next_page_token=None
    )
    result = run("get", "exporters", "-l", "a=1", "--with", "online,leases", "--with", "Status", "--allow-disabled")
    assert result.exit_code == 0
    controller.list_exporters.assert_called_once_with(
        filter="a=1",
        include_leases=True,
        include_online=True,
        include_status=True,
        show_hidden_labels=False,
        include_disabled=True,
    )


def test_unknown_additions_are_refused(controller: Mock) -> None:
    result = run("get", "exporters", "--with", "x")
    assert result.exit_code == 2
    assert "Invalid value(s) ['x']. Allowed values are: leases, online, status" in result.stderr
    controller.list_exporters.assert_not_called()


def test_deprecated_labels_of_listed_objects_name_the_object(controller: Mock) -> None:
    exporter = Exporter(namespace="lab", name="bench-1", labels={}, deprecated_labels={"board": "use model"})
    controller.list_exporters.return_value = ExporterList(exporters=[exporter], next_page_token=None)
    assert run("get", "exporters").stderr == "Warning: label 'board' of bench-1 is deprecated: use model\n"


# --- how programs reach in -------------------------------------------------------------------------------------------

KEYWORDS = {
    ("create", "create_lease"): "config selector exporter_name duration begin_time lease_id tags allow_disabled output",
    ("update", "update_lease"): "config name duration begin_time to_client output",
    ("delete", "delete_leases"): "config names selector delete_all all_clients output",
    ("get", "get_exporters"): "config selector output with_options show_hidden_labels allow_disabled",
    ("get", "get_leases"): "config selector output show_all all_clients tag_filter",
    ("shell", "shell"): "config command lease_name selector exporter_name duration exporter_logs acquisition_timeout "
    "retry_timeout tls_grpc_address tls_grpc_insecure passphrase",
}


@pytest.mark.parametrize(("place", "keywords"), KEYWORDS.items(), ids=lambda value: str(value)[:30])
def test_the_plain_function_is_below_two_wrappers(place: tuple[str, str], keywords: str) -> None:
    import inspect
    from importlib import import_module

    command: Any = getattr(import_module(f"jumpstarter_cli.{place[0]}"), place[1])
    assert isinstance(command, click.Command)
    callback: Any = command.callback
    function = callback.__wrapped__.__wrapped__
    assert not hasattr(function, "__wrapped__")
    parameters = inspect.signature(function).parameters
    # Callers of 0.9 give these; what was added has a default.
    assert set(keywords.split()) <= set(parameters)
    assert all(
        parameters[name].default is not inspect.Parameter.empty for name in set(parameters) - {*keywords.split()}
    )


def test_collaborators_are_module_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import get

    printed: list[Any] = []
    monkeypatch.setattr(get, "model_print", lambda *args: printed.append(args))
    config = SimpleNamespace(list_exporters=lambda **_: SimpleNamespace(exporters=[]))
    callback: Any = get.get_exporters.callback
    callback.__wrapped__.__wrapped__(
        config=config, selector=None, output="json", with_options=[], show_hidden_labels=False, allow_disabled=False
    )
    ((_, output),) = printed
    assert output == "json"
