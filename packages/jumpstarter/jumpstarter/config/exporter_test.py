"""Exporter configs: what they accept, what they say about mistakes, and where they are kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from jumpstarter.common.exceptions import ConfigurationError, FileAccessError
from jumpstarter.config.exporter import (
    DirectConfigV1Alpha1,
    ExporterConfigListV1Alpha1,
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
    ExporterConfigV1Alpha1DriverInstanceBase,
    ExporterConfigV1Alpha1DriverInstanceComposite,
    ExporterConfigV1Alpha1DriverInstanceProxy,
    FailureDetectionConfigV1Alpha1,
    HookConfigV1Alpha1,
    HookInstanceConfigV1Alpha1,
    ObjectMeta,
    parse_listen,
)

HEAD = "apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: {namespace: lab, name: bench}\n"

FULL = """\
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata:
  namespace: lab
  name: bench-1
endpoint: ctrl.example.org:443
tls:
  ca: ''
  insecure: false
token: secret
grpcOptions: {}
description: null
export:
  power:
    type: vendor.driver.Power
    description: null
    methods_description: {}
    config:
      host: 192.0.2.1
    children: {}
  nested:
    children:
      custom:
        type: vendor.driver.X
        description: null
        methods_description: {}
        config: {}
        children: {}
  alias:
    ref: nested.custom
hooks:
  beforeLease:
    exec: null
    script: echo ready
    timeout: 120
    onFailure: endLease
  afterLease: null
failureDetection:
  maxRapidFailures: 5
  rapidFailureWindow: 60
"""


def write(tmp_path: Path, text: str, name: str = "bench.yaml") -> Path:
    path = tmp_path / name
    path.write_text(dedent(text))
    return path


def meta() -> ObjectMeta:
    return ObjectMeta(namespace="lab", name="bench")


# -- what is accepted ----------------------------------------------------------------------------


def test_file_of_release_0_9_is_read_and_written_back_unchanged(tmp_path: Path) -> None:
    config = ExporterConfigV1Alpha1.load_path(write(tmp_path, FULL))
    assert ExporterConfigV1Alpha1.dump_yaml(config) == FULL
    assert isinstance(config.export["power"].root, ExporterConfigV1Alpha1DriverInstanceBase)
    assert isinstance(config.export["nested"].root, ExporterConfigV1Alpha1DriverInstanceComposite)
    assert isinstance(config.export["alias"].root, ExporterConfigV1Alpha1DriverInstanceProxy)
    assert config.hooks.before_lease is not None
    assert config.hooks.before_lease.on_failure == "endLease"
    assert config.path == tmp_path / "bench.yaml"
    assert config.alias == "default"


def test_file_of_june_2025_is_read(tmp_path: Path) -> None:
    text = HEAD + "endpoint: null\ntoken: null\ntls: {ca: '', insecure: false}\ngrpcOptions: {}\nexport: {}\n"
    config = ExporterConfigV1Alpha1.load_path(write(tmp_path, text))
    assert (config.endpoint, config.failure_detection.max_rapid_failures) == (None, 5)


def test_members_of_later_releases_are_written_only_when_they_say_something(tmp_path: Path) -> None:
    config = ExporterConfigV1Alpha1(metadata=meta(), motd="hello", exit_on_lease_end=True)
    assert yaml.safe_load(ExporterConfigV1Alpha1.dump_yaml(config))["exitOnLeaseEnd"] is True
    again = ExporterConfigV1Alpha1.load_path(write(tmp_path, ExporterConfigV1Alpha1.dump_yaml(config)))
    assert (again.motd, again.exit_on_lease_end) == ("hello", True)
    plain = yaml.safe_load(ExporterConfigV1Alpha1.dump_yaml(ExporterConfigV1Alpha1(metadata=meta())))
    assert {"motd", "exitOnLeaseEnd", "shutdown"}.isdisjoint(plain)


@pytest.mark.parametrize("written", ["off", "Off", "'off'", '"off"', "leave", "reset"])
def test_state_at_the_end_of_sessions_is_read_also_as_a_bare_word(tmp_path: Path, written: str) -> None:
    config = ExporterConfigV1Alpha1.load_path(write(tmp_path, HEAD + f"shutdown: {written}\n"))
    assert config.shutdown == written.strip("'\"").lower()
    again = ExporterConfigV1Alpha1.load_path(write(tmp_path, ExporterConfigV1Alpha1.dump_yaml(config)))
    assert again.shutdown == config.shutdown


@pytest.mark.parametrize(
    ("written", "shown"),
    [("no", "the boolean false"), ("false", "the boolean false"), ("on", "the boolean true"), ("of", "'of'")],
)
def test_other_states_at_the_end_of_sessions_are_mistakes(tmp_path: Path, written: str, shown: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"bench.yaml:\d+: shutdown: must be 'leave', 'off' or 'reset', not {shown}"
    ):
        ExporterConfigV1Alpha1.load_path(write(tmp_path, HEAD + f"shutdown: {written}\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"failure_detection": FailureDetectionConfigV1Alpha1(max_rapid_failures=2)},
        {"failureDetection": {"maxRapidFailures": 2}},
    ],
)
def test_python_names_and_aliases_are_both_taken(arguments: Any) -> None:
    config = ExporterConfigV1Alpha1(metadata=meta(), **arguments)
    assert config.failure_detection.max_rapid_failures == 2


def test_hooks_take_python_names() -> None:
    hook = HookInstanceConfigV1Alpha1(script="true", exec_="/bin/sh", on_failure="exit")
    config = HookConfigV1Alpha1(before_lease=hook)
    assert config.model_dump(by_alias=True)["beforeLease"] == {
        "exec": "/bin/sh",
        "script": "true",
        "timeout": 120,
        "onFailure": "exit",
    }


def test_driver_entry_is_built_from_keywords() -> None:
    entry = ExporterConfigV1Alpha1DriverInstance(type="vendor.X", config={"port": 1})
    assert entry.root == ExporterConfigV1Alpha1DriverInstanceBase(type="vendor.X", config={"port": 1})


def test_identity_is_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_NAMESPACE", "lab")
    config = ExporterConfigV1Alpha1(metadata=ObjectMeta(name="bench"))
    assert config.metadata == meta()


def test_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_TOKEN", "newer")
    monkeypatch.setenv("JMP_NAMESPACE", "other")
    config = ExporterConfigV1Alpha1.load_path(write(tmp_path, FULL))
    assert (config.token, config.metadata.namespace, config.metadata.name) == ("newer", "other", "bench-1")


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exports: {}", ":4: exports: unknown key; did you mean 'export'?"),
        ("endpoint: [1]", ":4: endpoint: must be a text (in quotes if it looks like something else), not a list"),
        ("token: 12345678", ":4: token: must be a text (in quotes if it looks like something else)"),
        ("tls:\n  insecrue: true", ":5: tls.insecrue: unknown key; did you mean 'insecure'?"),
        ("export:\n  power:\n    tpye: a.B", ":6: export.power.tpye: unknown key; did you mean 'type'?"),
        (
            "export:\n  power: {type: a.B, config: null}",
            ":5: export.power.config: must be a mapping, not empty (null)",
        ),
        (
            "export:\n  power: {type: a.B, ref: c}",
            ":5: export.power: 'type' makes a driver and 'ref' shows another one",
        ),
        ("export:\n  power: a.B", ":5: export.power: a driver is a mapping with 'type'"),
        ("export:\n  power:", ":5: export.power: a driver is a mapping with 'type'"),
        ("export:\n  power: {config: {a: 1}}", ":5: export.power: one of 'type', 'ref' and 'children' is needed"),
        ("export:\n  power: {type: a.B, confg: {}}", ":5: export.power.confg: unknown key; did you mean 'config'?"),
        (
            "export:\n  a:\n    children:\n      b:\n        children:\n          c: {typ: x}",
            ":9: export.a.children.b.children.c.typ: unknown key; did you mean 'type'?",
        ),
        ("hooks: {beforeLease: {script: x, timeout: 0}}", ":4: hooks.beforeLease.timeout: must be greater than 0"),
        ("hooks: {beforLease: {script: x}}", ":4: hooks.beforLease: unknown key; did you mean 'beforeLease'?"),
        ("hooks: {afterLease: {}}", ":4: hooks.afterLease.script: missing"),
        ("failureDetection: {maxRapidFailures: many}", ":4: failureDetection.maxRapidFailures: "),
        ("endpoint: a:1\nendpoint: b:1", ":5: key 'endpoint' is given twice, first in line 4"),
        ("export: [", ":5: not valid YAML"),
    ],
)
def test_mistake_is_told_with_file_line_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, HEAD + text + "\n")
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(path)
    assert str(caught.value).startswith(f"{path}{expected}")
    assert isinstance(caught.value, ValueError)


def test_values_of_secrets_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(write(tmp_path, HEAD + "token: 12345678\n"))
    assert "12345678" not in str(caught.value)


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "tokn: x\nexport: {a: {typ: b}}\n")
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(path)
    message = str(caught.value)
    assert message.startswith("2 mistakes in the config:")
    assert f"{path}:4: tokn: unknown key" in message
    assert f"{path}:5: export.a.typ: unknown key" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": a ExporterConfig must be a mapping (key: value), not empty (null)"),
        ("- 1\n", ":1: a ExporterConfig must be a mapping (key: value), not a list"),
        ("kind: ClientConfig\n", ":1: kind: this is 'ClientConfig', but 'ExporterConfig' is needed here"),
        ("kind: ExporterConfig\n", ":1: metadata: missing; add this key"),
        ("metadata: {name: a}\n", ":1: metadata.namespace: missing; add this key or set JMP_NAMESPACE"),
        ("apiVersion: v2\nmetadata: {name: a, namespace: b}\n", ":1: apiVersion: must be 'jumpstarter.dev/v1alpha1'"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML: expected a single document"),
    ],
)
def test_what_is_no_exporter_config_is_told(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(path)
    assert str(caught.value).startswith(f"{path}{expected.replace('a Exporter', 'an Exporter')}")


def test_broken_yaml_is_caught_as_such(tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        ExporterConfigV1Alpha1.load_path(write(tmp_path, "a: ["))


def test_binary_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8 text"):
        ExporterConfigV1Alpha1.load_path(path)


def test_constructor_raises_what_pydantic_raises() -> None:
    with pytest.raises(ValidationError):
        ExporterConfigV1Alpha1(metadata=meta(), exprt={})


# -- files ---------------------------------------------------------------------------------------


def test_saved_config_loads_again_and_is_private() -> None:
    config = ExporterConfigV1Alpha1(alias="bench.one", metadata=meta(), token="secret")
    path = ExporterConfigV1Alpha1.save(config)
    assert path == ExporterConfigV1Alpha1.BASE_PATH / "bench.one.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = ExporterConfigV1Alpha1.load("bench.one")
    assert loaded == config
    assert loaded.alias == "bench.one"
    assert os.listdir(path.parent) == ["bench.one.yaml"]


def test_path_may_be_text(tmp_path: Path) -> None:
    config = ExporterConfigV1Alpha1(metadata=meta())
    ExporterConfigV1Alpha1.save(config, str(tmp_path / "x.yaml"))
    assert ExporterConfigV1Alpha1.load_path(str(tmp_path / "x.yaml")).metadata == meta()


def test_saving_makes_a_readable_file_private_and_follows_links(tmp_path: Path) -> None:
    real = write(tmp_path, FULL, "real.yaml")
    real.chmod(0o644)
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    ExporterConfigV1Alpha1.save(ExporterConfigV1Alpha1(metadata=meta()), link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert ExporterConfigV1Alpha1.load_path(real).metadata == meta()


def test_failed_save_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, FULL)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FileAccessError, match="No space left on device"):
        ExporterConfigV1Alpha1.save(ExporterConfigV1Alpha1(metadata=meta()), path)
    assert path.read_text() == FULL
    assert os.listdir(tmp_path) == ["bench.yaml"]


def test_user_config_comes_before_that_of_the_machine() -> None:
    for directory, name in (
        (ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH, "machine"),
        (ExporterConfigV1Alpha1.BASE_PATH, "user"),
    ):
        directory.mkdir(parents=True)
        (directory / "both.yaml").write_text(HEAD + f"description: {name}\n")
    (ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH / "only.yaml").write_text(HEAD)
    assert ExporterConfigV1Alpha1.load("both").description == "user"
    assert ExporterConfigV1Alpha1.exists("only")
    assert not ExporterConfigV1Alpha1.user_config_exists("only")
    assert ExporterConfigV1Alpha1.resolve_path("only").parent == ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH


def test_config_of_the_machine_is_not_deleted() -> None:
    ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH.mkdir(parents=True)
    (ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH / "only.yaml").write_text(HEAD)
    with pytest.raises(ConfigurationError, match="system location"):
        ExporterConfigV1Alpha1.delete("only")


def test_deleting_what_is_not_there_is_silent() -> None:
    assert ExporterConfigV1Alpha1.delete("nothing").name == "nothing.yaml"


def test_missing_config_is_caught_as_the_builtin_error_and_names_the_path() -> None:
    with pytest.raises(FileNotFoundError, match=str(ExporterConfigV1Alpha1.BASE_PATH / "nothing.yaml")):
        ExporterConfigV1Alpha1.load("nothing")


@pytest.mark.parametrize("alias", ["", ".", "..", "a/b", "../x", "a\\b", "/etc/passwd", "a\0b"])
def test_alias_that_leads_elsewhere_is_refused(alias: str) -> None:
    with pytest.raises(ConfigurationError, match="Invalid exporter alias"):
        ExporterConfigV1Alpha1.load(alias)


def test_list_is_sorted_and_leaves_out_what_is_broken(caplog: pytest.LogCaptureFixture) -> None:
    ExporterConfigV1Alpha1.BASE_PATH.mkdir(parents=True)
    for name, text in (("b", HEAD), ("a", HEAD), ("broken", "kind: ["), ("notes.txt", "")):
        suffix = "" if "." in name else ".yaml"
        (ExporterConfigV1Alpha1.BASE_PATH / f"{name}{suffix}").write_text(text)
    found = ExporterConfigV1Alpha1.list()
    names: list[str] = []
    found.rich_add_names(names)
    assert names == ["a", "b"]
    assert "broken.yaml:2: not valid YAML" in caplog.text


def test_list_is_empty_without_directories() -> None:
    found = ExporterConfigV1Alpha1.list()
    assert isinstance(found, ExporterConfigListV1Alpha1)
    assert yaml.safe_load(found.dump_yaml()) == {
        "apiVersion": "jumpstarter.dev/v1alpha1",
        "kind": "ExporterConfigList",
        "items": [],
    }


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("7711", ("0.0.0.0", 7711)),
        (7711, ("0.0.0.0", 7711)),
        ("auto", ("0.0.0.0", 0)),
        ("board.example.org:auto", ("board.example.org", 0)),
        ("[::1]:7711", ("::1", 7711)),
    ],
)
def test_where_clients_come_directly_is_read(listen: object, expected: tuple[str, int]) -> None:
    direct = DirectConfigV1Alpha1.model_validate({"listen": listen})
    assert parse_listen(direct.listen) == expected


@pytest.mark.parametrize(
    "direct",
    [
        {},
        {"listen": ""},
        {"listen": "board"},
        {"listen": "board:99999"},
        {"listen": True},
        {"listen": "auto", "advertise": ["a b"]},
        {"listen": "auto", "advertise": ["http://board"]},
        {"listen": "auto", "adverts": []},
    ],
)
def test_a_malformed_direct_way_is_refused(direct: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DirectConfigV1Alpha1.model_validate(direct)
