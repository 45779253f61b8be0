"""The commands for configs: files as they are afterwards, and what is printed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1

from . import config_exporter
from .jmp import jmp

CLIENT = ("--namespace", "lab", "--name", "alice", "-e", "ctrl:443", "--token", "secret-token", "--allow", "a.*, b.*")
EXPORTER = ("--namespace", "lab", "--name", "bench-1", "-e", "ctrl:443", "--token", "secret-token")


def run(*args: str, input: str | None = None) -> Result:
    return CliRunner().invoke(jmp, ["config", *args], input=input, prog_name="jmp")


def client(*args: str, input: str | None = None) -> Result:
    return run("client", *args, input=input)


def exporter(*args: str, input: str | None = None) -> Result:
    return run("exporter", *args, input=input)


def current() -> str | None:
    found = UserConfigV1Alpha1.load().config.current_client
    return found.alias if found is not None else None


# --- clients ---------------------------------------------------------------------------------------------------------


def test_a_client_config_is_written_readable_by_its_owner_alone() -> None:
    result = client("create", "a", *CLIENT, "-o", "path")
    path = Path(result.stdout.strip())
    assert result.exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = yaml.safe_load(path.read_text())
    assert written["metadata"] == {"namespace": "lab", "name": "alice"}
    assert (written["endpoint"], written["token"]) == ("ctrl:443", "secret-token")
    assert written["drivers"] == {"allow": ["a.*", "b.*"], "unsafe": False}


def test_what_is_not_given_is_asked_for_in_order_and_secrets_are_not_shown() -> None:
    result = client("create", "a", input="lab\nalice\nctrl:443\nsecret-token\n\n")
    assert result.exit_code == 0
    questions = [result.stderr.index(word) for word in ("Namespace", "Name of", "Controller", "Token", "Allowed")]
    assert questions == sorted(questions)
    assert "secret-token" not in result.output
    assert ClientConfigV1Alpha1.load("a").drivers.allow == []


def test_with_nointeractive_nothing_is_asked() -> None:
    result = client("create", "a", "--namespace", "lab", "--nointeractive")
    assert result.exit_code == 2
    assert "Missing option '--name'" in result.stderr
    assert not ClientConfigV1Alpha1.exists("a")


def test_the_first_client_becomes_current_the_second_does_not() -> None:
    assert "made it the current one" in client("create", "a", *CLIENT).stdout
    client("create", "b", *CLIENT)
    assert current() == "a"


def test_a_config_is_never_overwritten() -> None:
    client("create", "a", *CLIENT)
    result = client("create", "a", *CLIENT)
    assert result.exit_code == 1
    assert "exists already" in result.stderr


def test_a_config_can_be_written_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "out.yaml"
    assert client("create", "a", *CLIENT, "--out", str(target), "-o", "path").stdout == f"{target}\n"
    assert not ClientConfigV1Alpha1.exists("a")
    assert not UserConfigV1Alpha1.exists()


def test_insecure_tls_is_confirmed_and_stored() -> None:
    assert client("create", "a", *CLIENT, "-k", input="n\n").exit_code == 1
    assert not ClientConfigV1Alpha1.exists("a")
    assert client("create", "a", *CLIENT, "--insecure-tls-config", input="y\n").exit_code == 0
    assert ClientConfigV1Alpha1.load("a").tls.insecure is True


@pytest.fixture
def two_clients() -> None:
    for alias in ("a", "b"):
        client("create", alias, *CLIENT)


@pytest.mark.usefixtures("two_clients")
def test_the_list_marks_the_current_one() -> None:
    lines = client("ls").stdout.splitlines()
    assert lines[0].split() == ["CURRENT", "ALIAS", "ENDPOINT", "PATH"]
    assert lines[1].split()[:3] == ["*", "a", "ctrl:443"]
    assert lines[2].split()[:2] == ["b", "ctrl:443"]
    assert client("list", "-o", "name").stdout == "a\nb\n"


@pytest.mark.usefixtures("two_clients")
def test_the_list_as_an_object() -> None:
    listed = json.loads(client("list", "-o", "json").stdout)
    assert (listed["kind"], listed["currentConfig"]) == ("ClientConfigList", "a")
    assert yaml.safe_load(client("list", "-o", "yaml").stdout) == listed


def test_an_empty_list_is_no_failure() -> None:
    result = client("list")
    assert (result.exit_code, result.stderr) == (0, "No resources found.\n")
    assert result.stdout.split() == ["CURRENT", "ALIAS", "ENDPOINT", "PATH"]


@pytest.mark.usefixtures("two_clients")
def test_another_client_can_be_made_current() -> None:
    assert client("use", "b").stdout == "Using client config 'b'.\n"
    assert client("current").stdout == "b\n"


@pytest.mark.usefixtures("two_clients")
def test_deleting_the_current_client_makes_another_one_current() -> None:
    assert client("rm", "a").exit_code == 0
    assert current() == "b"
    assert client("delete", "b").exit_code == 0
    assert current() is None


@pytest.mark.usefixtures("two_clients")
def test_deleting_another_client_leaves_the_current_one() -> None:
    client("delete", "b")
    assert current() == "a"


@pytest.mark.parametrize("command", ["use", "delete", "rename"])
def test_a_client_that_is_not_there_is_a_failure(command: str) -> None:
    result = client(command, "nope", *(["other"] if command == "rename" else []))
    assert result.exit_code == 1
    assert "does not exist" in result.stderr


@pytest.mark.usefixtures("two_clients")
def test_a_renamed_current_client_stays_current() -> None:
    assert client("rename", "a", "c").exit_code == 0
    assert current() == "c"
    assert client("list", "-o", "name").stdout == "b\nc\n"


@pytest.mark.usefixtures("two_clients")
def test_a_rename_never_overwrites() -> None:
    result = client("rename", "a", "b")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert client("list", "-o", "name").stdout == "a\nb\n"


@pytest.mark.usefixtures("two_clients")
def test_tokens_are_shown_on_request_only() -> None:
    assert "secret-token" not in client("show", "a").stdout
    shown = json.loads(client("show", "a", "--show-token", "-o", "json").stdout)
    assert shown["token"] == "secret-token"


@pytest.mark.usefixtures("two_clients")
def test_a_mistake_in_a_config_is_found(tmp_config_path: Path) -> None:
    assert client("validate", "a").exit_code == 0
    path = Path(client("use", "a", "-o", "path").stdout.strip())
    path.write_text(path.read_text() + "endpiont: x\n")
    result = client("validate", "a")
    assert result.exit_code == 1
    assert "endpiont" in result.stderr


# --- exporters -------------------------------------------------------------------------------------------------------


def test_an_exporter_config_is_written_readable_by_its_owner_alone() -> None:
    path = Path(exporter("create", *EXPORTER, "-o", "path").stdout.strip())
    assert path.name == "default.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ExporterConfigV1Alpha1.load("default").metadata.name == "bench-1"


def test_the_token_of_an_exporter_is_not_shown_while_it_is_typed() -> None:
    result = exporter("create", "x", input="lab\nbench-1\nctrl:443\nsecret-token\n")
    assert result.exit_code == 0
    assert "secret-token" not in result.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("create", "x", *EXPORTER), "exists already"),
        (("delete", "nope"), "does not exist"),
        (("edit", "nope"), "does not exist"),
        (("create", "a/b", *EXPORTER), "Invalid exporter alias"),
        (("show", "nope"), "does not exist"),
    ],
)
def test_what_can_not_be_done_says_why(args: tuple[str, ...], text: str) -> None:
    exporter("create", "x", *EXPORTER)
    result = exporter(*args)
    assert result.exit_code == 1
    assert text in result.stderr


def test_exporters_are_listed() -> None:
    exporter("create", "x", *EXPORTER)
    exporter("create", "y", *EXPORTER)
    assert exporter("list", "-o", "name").stdout == "x\ny\n"
    assert exporter("list").stdout.splitlines()[0].split() == ["ALIAS", "PATH"]
    assert json.loads(exporter("list", "-o", "json").stdout)["kind"] == "ExporterConfigList"


def test_a_config_of_the_machine_is_not_deleted(tmp_config_path: Path) -> None:
    exporter("create", "x", *EXPORTER)
    system = Path(ExporterConfigV1Alpha1.SYSTEM_CONFIG_PATH) / "x.yaml"
    system.parent.mkdir(parents=True)
    system.write_text(ExporterConfigV1Alpha1.resolve_path("x").read_text())
    first = exporter("delete", "x")
    assert first.exit_code == 0
    assert "system location" in first.stderr
    second = exporter("delete", "x")
    assert second.exit_code == 1
    assert "system location" in second.stderr
    assert system.exists()


def test_an_edited_config_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter("create", "x", *EXPORTER)

    def edit(filename: str) -> None:
        Path(filename).write_text(Path(filename).read_text() + "exprot: {}\n")

    monkeypatch.setattr(config_exporter.click, "edit", edit)
    result = exporter("edit", "x")
    assert result.exit_code == 1
    assert "exprot" in result.stderr


def test_drivers_of_a_config_are_checked_on_request(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("metadata: {namespace: a, name: b}\nexport:\n  p: {type: no_such_package.Power}\n")
    assert exporter("validate", str(path)).exit_code == 0
    result = exporter("validate", str(path), "--load-drivers")
    assert result.exit_code == 1
    assert "no_such_package" in result.stderr
