"""Client configs: files, the environment over them, and calls to the controller."""

from __future__ import annotations

import inspect
import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from pydantic import ValidationError

from jumpstarter.client.controller.exporters import ExporterCalls
from jumpstarter.client.controller.leases import LeaseCalls
from jumpstarter.client.controller.tokens import TokenCalls
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.client.grpc import ClientService
from jumpstarter.common.exceptions import ConfigurationError, ConnectionError
from jumpstarter.config.client import (
    ClientConfigListV1Alpha1,
    ClientConfigV1Alpha1,
    ClientConfigV1Alpha1Drivers,
    ClientConfigV1Alpha1Lease,
    ObjectMeta,
)
from jumpstarter.config.common import CONFIG_API_VERSION
from jumpstarter.config.shell import ShellConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1

JUNE_2025 = """\
apiVersion: jumpstarter.dev/v1alpha1
kind: ClientConfig
metadata:
  namespace: lab
  name: alice
endpoint: ctrl.example.org:443
tls:
  ca: ''
  insecure: false
token: secret
grpcOptions: {}
drivers:
  allow:
  - jumpstarter_driver_*
  unsafe: false
"""

RELEASE_0_9 = JUNE_2025.replace("token: secret\n", "token: secret\nrefresh_token: more\n") + (
    "shell:\n  use_profiles: false\nleases:\n  acquisition_timeout: 60\n  retry_timeout: 300.0\n"
)


def meta() -> ObjectMeta:
    return ObjectMeta(namespace="lab", name="alice")


def saved(text: str, alias: str = "alice") -> Path:
    ClientConfigV1Alpha1.ensure_exists()
    path = ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / f"{alias}.yaml"
    path.write_text(text)
    return path


# -- files ---------------------------------------------------------------------------------------


def test_file_of_june_2025_is_read_and_written_back_unchanged() -> None:
    saved(JUNE_2025)
    config = ClientConfigV1Alpha1.load("alice")
    assert (config.alias, config.token, config.drivers.allow) == ("alice", "secret", ["jumpstarter_driver_*"])
    assert ClientConfigV1Alpha1.dump_yaml(config) == JUNE_2025


def test_file_of_release_0_9_is_read_and_keeps_what_it_says() -> None:
    saved(RELEASE_0_9)
    config = ClientConfigV1Alpha1.load("alice")
    assert (config.refresh_token, config.leases.acquisition_timeout) == ("more", 60)
    assert list(yaml.safe_load(ClientConfigV1Alpha1.dump_yaml(config))) == [
        *("apiVersion", "kind", "metadata", "endpoint", "tls", "token", "refresh_token", "grpcOptions", "drivers"),
        "leases",
    ]


def test_members_that_older_releases_refuse_are_written_only_when_they_say_something() -> None:
    config = ClientConfigV1Alpha1(metadata=meta(), endpoint="a:1", token="t")
    assert {"shell", "leases", "refresh_token"}.isdisjoint(yaml.safe_load(ClientConfigV1Alpha1.dump_yaml(config)))
    config.shell = ShellConfigV1Alpha1(use_profiles=True)
    config.leases = ClientConfigV1Alpha1Lease(dial_timeout=60)
    written = yaml.safe_load(ClientConfigV1Alpha1.dump_yaml(config))
    assert (written["shell"], written["leases"]) == ({"use_profiles": True}, {"dial_timeout": 60.0})


def test_saved_config_loads_again_and_is_private() -> None:
    config = ClientConfigV1Alpha1(alias="a.b", metadata=meta(), endpoint="c:1", token="t")
    path = ClientConfigV1Alpha1.save(config)
    assert path == ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / "a.b.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ClientConfigV1Alpha1.load("a.b") == config
    assert ClientConfigV1Alpha1.exists("a.b")
    assert ClientConfigV1Alpha1.delete("a.b") == path
    assert not ClientConfigV1Alpha1.exists("a.b")


def test_missing_config_is_caught_as_the_builtin_error_and_names_the_path() -> None:
    path = ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / "nobody.yaml"
    for access in (ClientConfigV1Alpha1.load, ClientConfigV1Alpha1.delete):
        with pytest.raises(FileNotFoundError, match=str(path)):
            access("nobody")


@pytest.mark.parametrize("alias", ["", "..", "a/b", "/etc/passwd"])
def test_alias_that_leads_elsewhere_is_refused(alias: str) -> None:
    with pytest.raises(ConfigurationError, match="Invalid client alias"):
        ClientConfigV1Alpha1.load(alias)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("endpoint:", "endpont:"), ":6: endpont: unknown key; did you mean 'endpoint'?"),
        (("allow:\n  - ", "allow: 7 #"), ":13: drivers.allow: must be a valid list, not the number 7"),
        (("kind: ClientConfig", "kind: ExporterConfig"), ":2: kind: this is 'ExporterConfig', but 'ClientConfig'"),
        (("  name: alice\n", ""), ":3: metadata.name: missing; add this key or set JMP_NAME"),
        (("ca: ''", "ca: certificate!"), ":8: tls.ca: not base64; give base64 of PEM certificates"),
        (("token: secret", "token: secret\nleases: {acquisition_timeout: 1}"), ":11: leases.acquisition_timeout: must"),
    ],
)
def test_mistake_is_told_with_file_line_and_key(change: tuple[str, str], expected: str) -> None:
    path = saved(JUNE_2025.replace(*change))
    with pytest.raises(ConfigurationError) as caught:
        ClientConfigV1Alpha1.load("alice")
    assert str(caught.value).startswith(f"{path}{expected}"), str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_constructor_raises_what_pydantic_raises() -> None:
    with pytest.raises(ValidationError):
        ClientConfigV1Alpha1(metadata=meta(), endpont="a:1")


def test_tokens_are_not_in_the_text_of_a_config() -> None:
    text = repr(ClientConfigV1Alpha1(metadata=meta(), token="secret", refresh_token="other"))
    assert "secret" not in text
    assert "other" not in text


def test_list_is_sorted_marks_the_current_one_and_hides_refresh_tokens(caplog: pytest.LogCaptureFixture) -> None:
    saved(JUNE_2025, "bob")
    saved(RELEASE_0_9, "alice")
    saved("kind: [", "broken")
    UserConfigV1Alpha1.load_or_create().use_client("bob")
    found = ClientConfigV1Alpha1.list()
    assert found.current_config == "bob"
    assert [item.alias for item in found.items] == ["alice", "bob"]
    assert "broken.yaml" in caplog.text
    assert "more" not in found.dump_json() + found.dump_yaml()
    assert json.loads(found.dump_json())["currentConfig"] == "bob"
    table = Table()
    found.rich_add_columns(table)
    found.rich_add_rows(table)
    assert table.columns == ["CURRENT", "ALIAS", "ENDPOINT", "PATH"]
    assert [row[:2] for row in table.rows] == [("", "alice"), ("*", "bob")]


def test_list_is_empty_without_a_directory() -> None:
    assert ClientConfigV1Alpha1.list() == ClientConfigListV1Alpha1(current_config=None, items=[])  # type: ignore[call-arg]


class Table:
    def __init__(self) -> None:
        self.columns: list[str] = []
        self.rows: list[tuple[str, ...]] = []

    def add_column(self, title: str) -> None:
        self.columns.append(title)

    def add_row(self, *cells: str) -> None:
        self.rows.append(cells)


def test_places_follow_the_environment_and_can_be_assigned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JMP_CLIENT_CONFIG_HOME", str(tmp_path / "one"))
    assert tmp_path / "one" / "clients" == ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH
    with monkeypatch.context() as patch:
        patch.setattr(ClientConfigV1Alpha1, "CLIENT_CONFIGS_PATH", tmp_path / "two")
        assert ClientConfigV1Alpha1.save(ClientConfigV1Alpha1(metadata=meta())).parent == tmp_path / "two"
    monkeypatch.delenv("JMP_CLIENT_CONFIG_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "jumpstarter" / "clients" == ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH


# -- the environment -----------------------------------------------------------------------------


def test_environment_alone_describes_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "JMP_NAMESPACE": "lab",
        "JMP_NAME": "ci",
        "JMP_ENDPOINT": "c:1",
        "JMP_TOKEN": "t",
        "JMP_DRIVERS_ALLOW": "a.*, b.*",
        "JMP_GRPCOPTIONS": '{"grpc.x": 1}',
        "JMP_TLS": '{"insecure": true}',
    }.items():
        monkeypatch.setenv(name, value)
    config = ClientConfigV1Alpha1.from_env()
    assert config.metadata == ObjectMeta(namespace="lab", name="ci")
    assert (config.endpoint, config.token, config.drivers.allow) == ("c:1", "t", ["a.*", "b.*"])
    assert (config.grpcOptions, config.tls.insecure, config.alias) == ({"grpc.x": 1}, True, "default")
    assert config.apiVersion == CONFIG_API_VERSION


@pytest.mark.parametrize("name", ["JMP_NAMESPACE", "JMP_NAME"])
def test_environment_without_an_identity_describes_no_client(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert ClientConfigV1Alpha1.try_from_env() is None
    with pytest.raises(ValueError, match="metadata"):
        ClientConfigV1Alpha1()


def test_what_is_given_explicitly_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_TOKEN", "environment")
    monkeypatch.setenv("JMP_ENDPOINT", "environment:1")
    config = ClientConfigV1Alpha1(metadata=meta(), token="explicit")
    assert (config.token, config.endpoint) == ("explicit", "environment:1")


def test_environment_beats_the_file_and_is_not_written_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(JUNE_2025)
    for name, value in {
        "JMP_TOKEN": "environment",
        "JMP_NAMESPACE": "other",
        "JMP_DRIVERS_ALLOW": "x.*",
        "JMP_DRIVERS_UNSAFE": "true",
        "JMP_TLS": '{"insecure": true}',
        "JMP_RETRY_TIMEOUT": "1.5",
    }.items():
        monkeypatch.setenv(name, value)
    config = ClientConfigV1Alpha1.load("alice")
    assert (config.token, config.metadata.namespace, config.metadata.name) == ("environment", "other", "alice")
    assert (config.drivers.allow, config.drivers.unsafe, config.tls.insecure) == (["x.*"], True, True)
    assert config.leases.retry_timeout == 1.5
    ClientConfigV1Alpha1.save(config)
    assert path.read_text() == JUNE_2025


def test_what_is_changed_after_loading_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(JUNE_2025)
    monkeypatch.setenv("JMP_TOKEN", "environment")
    config = ClientConfigV1Alpha1.load("alice")
    config.token = "refreshed"
    ClientConfigV1Alpha1.save(config)
    assert path.read_text() == JUNE_2025.replace("secret", "refreshed")


def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    saved(JUNE_2025)
    for name, value in {
        "JMP_SHELL": "/bin/zsh",
        "JMP_LEASES": "mine",
        "JMP_PATH": "x",
        "JMP_ALIAS": "y",
        "JMP_KIND": "z",
        "ACQUISITION_TIMEOUT": "6",
        "JMP_TOKEN": "",
    }.items():
        monkeypatch.setenv(name, value)
    config = ClientConfigV1Alpha1.load("alice")
    assert (config.alias, config.kind, config.token) == ("alice", "ClientConfig", "secret")
    assert config.leases.acquisition_timeout == 7200


def test_shell_and_leases_are_read_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_SHELL", '{"use_profiles": true}')
    monkeypatch.setenv("JMP_LEASES", '{"acquisition_timeout": 5}')
    config = ClientConfigV1Alpha1(metadata=meta())
    assert (config.shell.use_profiles, config.leases.acquisition_timeout) == (True, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("JMP_TLS", "{"), ("JMP_GRPCOPTIONS", "[]"), ("JMP_RETRY_TIMEOUT", "soon"), ("JMP_DRIVERS_UNSAFE", "2")],
)
def test_variable_that_makes_no_sense_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(JUNE_2025)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        ClientConfigV1Alpha1.load("alice")


@pytest.mark.parametrize(
    ("value", "allow", "unsafe"),
    [("UNSAFE", ["UNSAFE"], True), ("a.*,UNSAFE", ["a.*", "UNSAFE"], True), ("", [""], False), ("a.B", ["a.B"], False)],
)
def test_allowed_drivers_from_the_environment(
    value: str, allow: list[str], unsafe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", value)
    assert ClientConfigV1Alpha1Drivers() == ClientConfigV1Alpha1Drivers(allow=allow, unsafe=unsafe)
    assert ClientConfigV1Alpha1Drivers().unsafe is unsafe


# -- the controller ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["endpoint", "token"])
async def test_incomplete_config_opens_no_channel(missing: str) -> None:
    values = {"endpoint": "c:1", "token": "t", missing: None}
    with pytest.raises(ConfigurationError, match=f"{missing} not set.*JMP_{missing.upper()}"):
        await ClientConfigV1Alpha1(metadata=meta(), **values).channel()


async def test_all_pages_of_exporters_are_fetched_with_their_leases(lab: Any) -> None:
    for number in range(5):
        lab.controller.add(f"rpi-{number}", board="rpi")
    config = lab.client()
    lease = await config.create_lease(timedelta(minutes=5), exporter_name="rpi-3")
    found = await config.list_exporters(page_size=2, include_leases=True, include_status=True)
    assert lab.faults.calls["ListExporters"] == 3
    assert [exporter.name for exporter in found.exporters] == [f"rpi-{number}" for number in range(5)]
    assert {exporter.name: exporter.lease.name for exporter in found.exporters if exporter.lease} == {
        "rpi-3": lease.name
    }
    assert str(found.exporters[3].status) == "LEASE_READY"


async def test_lease_is_created_changed_and_deleted(lab: Any) -> None:
    lab.controller.add("rpi-1", board="rpi")
    config = lab.client()
    begin = datetime(2031, 1, 2, 3, 4, tzinfo=UTC)
    lease = await config.create_lease(
        duration=timedelta(minutes=5), selector="board=rpi", lease_id="mine", tags={"a": "b"}, allow_disabled=True
    )
    assert (lease.name, lease.client, lease.exporter, lease.tags) == ("mine", "alice", "rpi-1", {"a": "b"})
    changed = await config.update_lease("mine", duration=timedelta(hours=1), begin_time=begin)
    assert (changed.duration, changed.begin_time) == (timedelta(hours=1), begin)
    assert (await config.update_lease("mine", client="bob")).client == "bob"
    assert [each.name for each in (await lab.client("bob").list_leases()).leases] == ["mine"]
    await lab.client("bob").delete_lease("mine")
    assert (await config.list_leases()).leases == []
    assert [each.get_status() for each in (await config.list_leases(only_active=False)).leases] == ["Ended"]


async def test_leases_are_filtered_by_what_they_select(lab: Any) -> None:
    config = lab.client()
    await config.create_lease(timedelta(minutes=5), selector="board=rpi,rack=7", lease_id="one")
    await config.create_lease(timedelta(minutes=5), selector="board=imx", lease_id="two")
    assert [each.name for each in (await config.list_leases(filter="board=rpi")).leases] == ["one"]
    assert [each.name for each in (await config.list_leases(filter="rack")).leases] == ["one"]


async def test_nothing_to_update_is_refused_before_anything_is_sent(lab: Any) -> None:
    with pytest.raises(ValueError, match="nothing to update"):
        await lab.client().update_lease("mine")
    assert lab.faults.calls["UpdateLease"] == 0


async def test_token_is_rotated(lab: Any) -> None:
    response = await lab.client().rotate_token()
    assert lab.controller.tokens[response.token] == "alice"


async def test_refused_call_carries_the_config_for_a_new_login(lab: Any) -> None:
    config = lab.client(token="old")
    with pytest.raises(ConnectionError, match="token is not valid") as caught:
        await config.list_leases()
    assert caught.value.get_config() is config


def test_methods_block_where_no_loop_runs(threaded_lab: Any) -> None:
    threaded_lab.controller.add("rpi-1", board="rpi")
    assert threaded_lab.client().get_exporter("rpi-1").labels == {"board": "rpi"}


def test_insecure_client_needs_no_certificate(mock_controller: str) -> None:
    config = ClientConfigV1Alpha1(metadata=meta(), endpoint=mock_controller, token="alice-token")
    assert config.list_exporters().exporters == []


def test_lease_is_named_by_the_environment_and_kept(threaded_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threaded_lab.controller.add("rpi-1", board="rpi")
    config = threaded_lab.client()
    lease = config.create_lease(timedelta(minutes=5), selector="board=rpi")
    monkeypatch.setenv("JMP_LEASE", lease.name)
    with config.lease() as held:
        assert (held.name, held.release) == (lease.name, False)
    assert threaded_lab.controller.active() == [lease.name]


def test_waiting_times_come_from_arguments_then_environment_then_file(
    threaded_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded_lab.controller.add("rpi-1", board="rpi")
    config = threaded_lab.client(leases={"retry_timeout": 1, "dial_timeout": 2, "acquisition_timeout": 9})
    monkeypatch.setenv("JMP_RETRY_TIMEOUT", "3")
    monkeypatch.setenv("JMP_DIAL_TIMEOUT", "4")
    from jumpstarter.config.serving import in_portal

    def lease(**given: Any) -> Any:
        return in_portal(
            lambda portal: config.lease_async("board=rpi", None, None, timedelta(minutes=1), portal, **given)
        )

    with lease(dial_timeout=timedelta(seconds=5)) as held:
        assert (held.retry_timeout, held.dial_timeout, held.acquisition_timeout) == (3, 5, 9)


def test_error_of_the_body_of_a_blocking_lease_comes_out_as_it_is(threaded_lab: Any) -> None:
    threaded_lab.controller.add("rpi-1", board="rpi")
    with pytest.raises(ZeroDivisionError), threaded_lab.client().lease(selector="board=rpi"):
        raise ZeroDivisionError
    assert threaded_lab.controller.active() == []


def test_lease_that_cannot_be_had_is_told_without_groups(threaded_lab: Any) -> None:
    threaded_lab.faults.refuse["GetLease"] = [(grpc.StatusCode.NOT_FOUND, "gone")] * 2
    with (
        pytest.raises((LeaseError, ConnectionError), match="gone"),
        threaded_lab.client().lease(selector="board=rpi"),
    ):
        pytest.fail("leased")


@pytest.mark.parametrize("calls", [ExporterCalls, LeaseCalls, TokenCalls])
def test_each_call_is_offered_by_configs_and_by_the_service(calls: type) -> None:
    names = [name for name, value in vars(calls).items() if inspect.iscoroutinefunction(value)]
    assert names
    for name in names:
        assert getattr(ClientConfigV1Alpha1, name).__wrapped__ is getattr(calls, name)
        assert hasattr(ClientService, name.title().replace("_", ""))


def test_a_lease_is_told_by_its_name(threaded_lab: Any) -> None:
    config = threaded_lab.client()
    created = config.create_lease(timedelta(minutes=5), selector="board=rpi")
    assert config.get_lease(created.name).name == created.name


@pytest.mark.parametrize(
    "module",
    ["jumpstarter.config.client", "jumpstarter.config.user", "jumpstarter.config.exporter", "jumpstarter.client.grpc"],
)
def test_configs_are_imported_without_what_they_assemble(module: str) -> None:
    heavy = ("grpc", "aiohttp", "google.protobuf", "yaml", "rich", "jumpstarter.exporter", "pydantic_settings")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
