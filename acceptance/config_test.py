"""Configs that can't work: one message with file, line, key and what to do; nothing was started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Journal
from .programs import JMP, J, Outcome

Run = Callable[..., Outcome]
Config = Callable[..., str]

META = "metadata: {namespace: lab, name: bench}\n"
POWER = "{type: jumpstarter_driver_power.driver.MockPower}"

# Name of the case: text of the exporter config, line at fault, and what the message must say.
BROKEN: dict[str, tuple[str, int | None, list[str]]] = {
    "misspelt key at the top": (f"{META}exprot: {{}}\n", 2, ["exprot: unknown key", "did you mean 'export'"]),
    "misspelt key of a driver": (
        f"{META}export:\n  power:\n    tpye: a.B\n",
        4,
        ["export.power.tpye", "did you mean 'type'"],
    ),
    "misspelt key of a driver's config": (
        f"{META}export:\n  disk:\n    type: jumpstarter_driver_opendal.driver.Opendal\n"
        "    config:\n      schema: fs\n      kwargs: {}\n",
        6,
        ["driver export.disk", "unknown config key 'schema'", "did you mean 'scheme'"],
    ),
    "missing metadata": (f"export:\n  power: {POWER}\n", 1, ["metadata: missing"]),
    "missing name": ("metadata:\n  namespace: lab\n", 1, ["metadata.name: missing", "JMP_NAME"]),
    "missing key of a driver's config": (
        f"{META}export:\n  disk:\n    type: jumpstarter_driver_opendal.driver.Opendal\n    config: {{scheme: fs}}\n",
        5,
        ["driver export.disk", "config lacks 'kwargs'"],
    ),
    "list instead of a mapping": (f"{META}export:\n  - power\n", 2, ["export: must be a mapping, not a list"]),
    "number instead of a mapping": (
        f"{META}export:\n  power:\n    type: a.B\n    config: 5\n",
        5,
        ["export.power.config: must be a mapping, not the number 5"],
    ),
    "text instead of a number": (
        f"{META}export:\n  console:\n    type: jumpstarter_driver_pyserial.driver.PySerial\n"
        "    config: {url: 'loop://', baudrate: fast}\n",
        5,
        ["driver export.console", "baudrate", "'fast'"],
    ),
    "two wrong values": (
        f"{META}hooks:\n  beforeLease:\n    script: 'true'\n    timeout: soon\n    onFailure: explode\n",
        5,
        [
            "2 mistakes",
            "hooks.beforeLease.timeout",
            "hooks.beforeLease.onFailure: must be 'warn', 'endLease' or 'exit'",
        ],
    ),
    "neither type nor children nor ref": (f"{META}export:\n  power: {{config: {{}}}}\n", 3, ["export.power"]),
    "both type and ref": (f"{META}export:\n  power: {{type: a.B, ref: c}}\n", 3, ["export.power"]),
    "unknown driver class": (
        f"{META}export:\n  power:\n    type: jumpstarter_driver_power.driver.MockPowr\n",
        4,
        ["driver export.power", "has no class 'MockPowr'", "did you mean 'MockPower'"],
    ),
    "driver that is not installed": (
        f"{META}export:\n  power:\n    type: jumpstarter_driver_toaster.driver.Toaster\n",
        4,
        ["driver export.power", "pip install jumpstarter-driver-toaster"],
    ),
    "class that is no driver": (
        f"{META}export:\n  power:\n    type: collections.OrderedDict\n",
        4,
        ["driver export.power", "no driver class", "jumpstarter.driver.Driver"],
    ),
    "class without a module": (f"{META}export:\n  power:\n    type: Power\n", 4, ["driver export.power", "'Power'"]),
    "list instead of a config": ("- power\n", 1, ["an ExporterConfig must be a mapping (key: value), not a list"]),
    "text instead of a config": ("power\n", 1, ["an ExporterConfig must be a mapping (key: value), not 'power'"]),
    "empty file": ("", None, ["an ExporterConfig must be a mapping (key: value)", "empty"]),
    "two documents": (f"{META}---\n{META}", 2, ["not valid YAML"]),
    "no YAML": (f"{META}export: {{power: [\n", 3, ["not valid YAML"]),
    "tab as indentation": (f"{META}export:\n\tpower: {POWER}\n", 3, ["not valid YAML"]),
    "config of another kind": (
        f"kind: ClientConfig\n{META}",
        1,
        ["kind: this is 'ClientConfig', but 'ExporterConfig' is needed here"],
    ),
    "another version of the format": (f"apiVersion: jumpstarter.dev/v9\n{META}", 1, ["apiVersion"]),
    "two drivers of one name": (
        f"{META}export:\n  power: {POWER}\n  power: {POWER}\n",
        4,
        ["key 'power' is given twice, first in line 3"],
    ),
    "proxies in a circle": (
        f"{META}export:\n  a: {{ref: b}}\n  b: {{ref: a}}\n",
        2,
        ["circle", "b -> a -> b", "Point at least one of these refs"],
    ),
    "proxy of itself": (f"{META}export:\n  a: {{ref: a}}\n", 2, ["circle", "a -> a"]),
    "proxy of nothing": (f"{META}export:\n  a: {{ref: b.c}}\n", 2, ["'a' can't find its ref 'b.c'", "no child 'b'"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_exporter_config_is_told_with_file_line_and_key(case: str, config: Config, run: Run) -> None:
    text, line, expected = BROKEN[case]
    path = config(text)
    message = run(JMP, "shell", "--exporter-config", path, "--", "echo", "started").failure()
    assert (f"{path}:{line}: " if line else path) in message
    for part in expected:
        assert part in message
    assert "Hint" not in message or "report" not in message


def test_nothing_is_started_with_a_broken_config(config: Config, run: Run, journal: Journal) -> None:
    path = config(good={"type": "Trouble"}, bad={"type": "no_such_module.Power"})
    result = run(JMP, "shell", "--exporter-config", path, "--", "echo", "started")
    result.failure()
    assert result.out == ""
    # The good one may have been made first: then it was closed again.
    assert journal.lines.count("opened") == journal.lines.count("closed")


@pytest.mark.parametrize("kind", ["OSError", "RuntimeError", "KeyError", "NoPlainError"])
def test_a_driver_that_cannot_be_made_is_named_and_its_neighbours_are_closed(
    kind: str, config: Config, run: Run, journal: Journal
) -> None:
    path = config(good={"type": "Trouble"}, bad={"type": "FailingSetup", "config": {"kind": kind}})
    message = run(JMP, "shell", "--exporter-config", path, "--", "true").failure()
    assert "driver export.bad (trouble.FailingSetup)" in message
    assert "the board does not answer" in message
    assert journal.lines == ["opened", "opened", "closed"]


@pytest.mark.parametrize("command", [["shell"], ["run"]])
@pytest.mark.parametrize(("name", "expected"), [("missing.yaml", "missing.yaml"), ("", "directory")])
def test_a_config_file_that_cannot_be_read_is_told(
    command: list[str], name: str, expected: str, run: Run, tmp_path: Path
) -> None:
    result = run(JMP, *command, "--exporter-config", str(tmp_path / name))
    assert result.code in (1, 2), result
    assert "Error: " in result.err
    assert expected in result.err
    assert str(tmp_path) in result.err


def test_a_config_that_is_no_text_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "exporter.yaml"
    path.write_bytes(b"\xff\xfe\x00metadata")
    message = run(JMP, "shell", "--exporter-config", str(path), "--", "true").failure()
    assert f"{path}: not UTF-8 text" in message


def test_a_config_that_the_system_refuses_to_read_is_told(run: Run) -> None:
    path = "/proc/self/mem"  # nobody can read it from its start, not even root
    message = run(JMP, "shell", "--exporter-config", path, "--", "true").failure()
    assert path in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: ExporterConfig\n", "kind: this is 'ExporterConfig', but 'ClientConfig' is needed here"),
        ("- a\n", "must be a mapping"),
        (f"{META}endpont: a:1\n", "did you mean 'endpoint'"),
        (f"{META}endpoint: a:1\ntoken: t\ndrivers: {{allow: 5}}\n", "drivers.allow"),
    ],
)
def test_a_broken_client_config_is_told(text: str, expected: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(text)
    message = run(JMP, "get", "exporters", "--client-config", str(path)).failure()
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_failures_are_one_object_where_output_is_for_machines(output: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "client.yaml"
    path.write_text("- a\n")
    result = run(JMP, "get", "exporters", "--client-config", str(path), "-o", output)
    assert (result.code, result.out) == (1, "")
    failure: dict[str, Any] = json.loads(result.err)
    assert failure.keys() == {"reason", "message", "hint"}
    assert failure["reason"] == "configuration"
    assert f"{path}:1: " in failure["message"]


def test_an_unreachable_controller_is_one_object_too(run: Run, tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(f"{META}endpoint: 127.0.0.1:{free_port}\ntoken: t\ntls: {{insecure: true}}\n")
    result = run(JMP, "get", "leases", "--client-config", str(path), "-o", "json")
    assert (result.code, result.out) == (1, "")
    failure = json.loads(result.err)
    assert failure["reason"] in ("unreachable", "connection-refused", "connection", "tls")
    assert "127.0.0.1" in failure["message"]
    assert str(free_port) in failure["message"]
    assert failure["hint"]


def test_wrong_usage_is_one_object_too(run: Run) -> None:
    result = run(JMP, "get", "leases", "--nope", "-o", "json")
    assert result.code == 2
    failure = json.loads(result.err)
    assert failure["reason"] == "usage"
    assert "--nope" in failure["message"]


def test_the_traceback_is_shown_at_log_level_debug(config: Config, run: Run, tracebacks_expected: list[bool]) -> None:
    tracebacks_expected.append(True)
    path = config(bad={"type": "FailingSetup"})
    result = run(JMP, "--log-level", "debug", "shell", "--exporter-config", path, "--", "true")
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err
    assert "OSError: the board does not answer" in result.err
    assert result.err.rstrip().splitlines()[-1].startswith("Error: ")


def test_a_socket_path_that_is_too_long_is_told(trouble: str, run: Run, tmp_path: Path, journal: Journal) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    message = run(JMP, "shell", "--exporter-config", trouble, "--", "true", env={"TMPDIR": str(folder)}).failure()
    assert "Unix socket" in message
    assert "TMPDIR" in message
    assert journal.lines == ["opened", "closed"]
    assert list(folder.iterdir()) == []


def test_a_class_outside_the_allow_list_is_not_even_imported(
    config: Config, in_shell: Callable[..., Outcome], tmp_path: Path
) -> None:
    mark = tmp_path / "imported"
    path = config(foreign={"type": "Foreign"}, trouble={"type": "Trouble"})
    env = {"FOREIGN_MARK": str(mark)}
    only_trouble = "JMP_DRIVERS_ALLOW='jumpstarter_driver_*,trouble_client.*'"
    denied = in_shell(path, "sh", "-c", f"{only_trouble} {J} foreign", env=env)
    assert denied.code != 0
    assert "foreign_client.ForeignClient" in denied.err
    assert "allow" in denied.err
    assert not mark.exists()
    # The neighbour that is allowed works all the same.
    assert in_shell(path, "sh", "-c", f"{only_trouble} {J} trouble ping", env=env).out == "pong\n"


def test_a_port_in_use_is_told_and_not_tried_again(trouble: str, exporter: Any, run: Run, free_port: int) -> None:
    exporter(trouble)
    address = f"127.0.0.1:{free_port}"
    second = run(JMP, "run", "--exporter-config", trouble, "--tls-grpc-listener", address, "--tls-grpc-insecure")
    message = second.failure()
    assert address in message
    assert "another program listens there" in message
    assert "Starting the exporter again" not in second.err


@pytest.mark.parametrize("case", ["driver that is not installed", "two drivers of one name", "proxies in a circle"])
def test_an_exporter_with_a_broken_config_ends_at_once(case: str, config: Config, run: Run, free_port: int) -> None:
    path = config(BROKEN[case][0])
    options = ["--tls-grpc-listener", f"127.0.0.1:{free_port}", "--tls-grpc-insecure"]
    result = run(JMP, "run", "--exporter-config", path, *options)
    assert path in result.failure()
    assert "again" not in result.err


def test_an_exporter_without_a_controller_or_a_listener_says_what_is_missing(trouble: str, run: Run) -> None:
    message = run(JMP, "run", "--exporter-config", trouble).failure()
    assert f"'{trouble}': endpoint and token not set" in message
