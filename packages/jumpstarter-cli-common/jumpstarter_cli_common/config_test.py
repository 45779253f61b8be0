"""Which config a command works with."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1

from .config import opt_config


def show(config: Any) -> None:
    if isinstance(config, tuple):
        click.echo(repr(config))
    else:
        click.echo(f"{config.kind} {config.metadata.name}")


def run(*args: str, **options: bool) -> Result:
    return CliRunner().invoke(click.command()(opt_config(**options)(show)), args)


def save_client(alias: str) -> Path:
    meta = ObjectMeta(namespace="lab", name=f"client-{alias}")
    return ClientConfigV1Alpha1.save(ClientConfigV1Alpha1(alias=alias, metadata=meta, endpoint="h:1", token="t"))


def save_exporter(alias: str) -> Path:
    meta = ObjectMeta(namespace="lab", name=f"exporter-{alias}")
    return ExporterConfigV1Alpha1.save(ExporterConfigV1Alpha1(alias=alias, metadata=meta))


@pytest.fixture
def configs() -> dict[str, Path]:
    found = {"a": save_client("a"), "b": save_client("b"), "x": save_exporter("x")}
    UserConfigV1Alpha1.load_or_create().use_client("a")
    return found


@pytest.mark.usefixtures("configs")
def test_the_current_client_is_used_when_nothing_is_given() -> None:
    assert run().output == "ClientConfig client-a\n"


def test_options_name_a_config_by_alias_or_path(configs: dict[str, Path]) -> None:
    assert run("--client", "b").output == "ClientConfig client-b\n"
    assert run("--client-config", str(configs["b"])).output == "ClientConfig client-b\n"
    assert run("--exporter", "x").output == "ExporterConfig exporter-x\n"
    assert run("--exporter-config", str(configs["x"])).output == "ExporterConfig exporter-x\n"


def test_a_path_given_as_alias_is_understood(configs: dict[str, Path]) -> None:
    assert run("--exporter", str(configs["x"])).output == "ExporterConfig exporter-x\n"


@pytest.mark.usefixtures("configs")
def test_options_of_an_earlier_run_are_forgotten() -> None:
    command = click.command()(opt_config()(show))
    assert CliRunner().invoke(command, ["--client", "b"]).output == "ClientConfig client-b\n"
    gc.collect()
    assert CliRunner().invoke(command, []).output == "ClientConfig client-a\n"


@pytest.mark.usefixtures("configs")
def test_the_option_beats_the_environment_and_the_environment_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_CLIENT", "b")
    assert run().output == "ClientConfig client-b\n"
    assert run("--client", "a").output == "ClientConfig client-a\n"


def test_the_environment_can_name_a_file(configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_CLIENT_CONFIG", str(configs["b"]))
    assert run().output == "ClientConfig client-b\n"


@pytest.mark.usefixtures("configs")
def test_the_environment_alone_can_describe_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_NAMESPACE", "lab")
    monkeypatch.setenv("JMP_NAME", "from-env")
    assert run().output == "ClientConfig from-env\n"


@pytest.mark.usefixtures("configs")
def test_two_configs_are_a_usage_error() -> None:
    result = run("--client", "a", "--exporter", "x")
    assert result.exit_code == 2
    assert "--client and --exporter" in result.output


def test_no_config_at_all_says_what_to_do(tmp_config_path: Path) -> None:
    result = run()
    assert result.exit_code == 1
    assert "jmp login" in result.output
    assert "jmp config client" in result.output
    assert not list(tmp_config_path.rglob("*.yaml")), "looking for a config must not write one"


def test_an_exporter_has_no_default() -> None:
    assert run(client=False).exit_code == 2


def test_a_missing_config_is_a_failure_that_names_the_file() -> None:
    result = run("--client", "nope")
    assert result.exit_code == 1
    assert "Failed to load config" in result.output
    assert "nope.yaml" in result.output


def test_a_broken_config_is_a_failure_that_names_file_and_key(configs: dict[str, Path]) -> None:
    configs["x"].write_text("apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: {name: 3}\n")
    result = run("--exporter", "x")
    assert result.exit_code == 1
    assert "x.yaml" in result.output
    assert "metadata" in result.output


def test_a_missing_config_can_be_passed_on() -> None:
    assert run("--client", "nope", allow_missing=True).output == "('client', 'nope')\n"
    assert run("--exporter", "nope", allow_missing=True).output == "('exporter', 'nope')\n"
    assert run("--exporter-config", "/nope.yaml", allow_missing=True).output == "('exporter_config', '/nope.yaml')\n"
    assert run(allow_missing=True).output == "('client', 'default')\n"


@pytest.mark.usefixtures("configs")
def test_aliases_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_config_path: Path) -> None:
    monkeypatch.setenv("JMP_CLIENT_CONFIG_HOME", str(tmp_config_path / "client-config" / "jumpstarter"))
    completer = ShellComplete(click.command()(opt_config()(show)), {}, "prog", "_PROG_COMPLETE")
    assert [item.value for item in completer.get_completions(["--client"], "")] == ["a", "b"]
    assert [item.value for item in completer.get_completions(["--client"], "b")] == ["b"]
