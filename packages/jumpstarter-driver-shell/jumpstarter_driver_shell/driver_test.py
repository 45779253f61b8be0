"""The shell driver and its client, end to end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.utils import serve

from jumpstarter_driver_shell.client import Result, ShellClient
from jumpstarter_driver_shell.driver import Shell

METHODS: dict[str, Any] = {
    "echo": "echo $0 $1",
    "args": 'printf "%s|" "$@"',
    "env": "echo $NAME",
    "exit_code": "exit $1",
    "both": "echo out; echo err >&2",
    "several": "a=1\nb=2\necho $((a + b))",
    "where": "pwd",
    "status": "echo fine",
    "described": {"command": "echo described", "description": "Says what it does.", "timeout": 5},
    "slow": {"command": "echo begun; sleep 300", "timeout": 0.5},
    "defaulted": {},
}


@pytest.fixture
def client() -> Iterator[ShellClient]:
    """A client of a driver with the methods above."""
    with serve(Shell(methods=METHODS)) as client:
        yield client


def run_cli(client: ShellClient, *words: str) -> Any:
    """Run the `j` command of the driver."""
    return CliRunner().invoke(client.cli(), list(words))


def test_method_gets_its_name_and_arguments(client: ShellClient) -> None:
    assert list(client.echo("hello")) == ["echo hello\n", "", 0]
    assert client.args("a b", "", "c").stdout == "a b||c|"


def test_result_is_the_exit_status_and_unpacks(client: ShellClient) -> None:
    result = client.exit_code("3")
    assert result == 3
    assert type(result.returncode) is int
    stdout, stderr, returncode = client.both()
    assert (stdout, stderr, returncode) == ("out\n", "err\n", 0)


def test_output_is_printed_as_it_comes(client: ShellClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.both()
    assert capsys.readouterr() == ("out\n", "err\n")


def test_keyword_arguments_are_environment_variables(client: ShellClient) -> None:
    assert client.env(NAME="value").stdout == "value\n"


def test_scripts_may_have_several_lines(client: ShellClient) -> None:
    assert client.several().stdout == "3\n"


def test_unknown_method_is_an_attribute_error_that_lists_the_known_ones(client: ShellClient) -> None:
    with pytest.raises(AttributeError, match=r"method unknown not found in \['echo', "):
        client.unknown()
    assert not hasattr(client, "unknown")


def test_method_named_like_a_client_attribute_is_reached_by_name(client: ShellClient) -> None:
    assert client.run_method("status").stdout == "fine\n"
    assert run_cli(client, "status").output == "fine\n"


def test_late_method_keeps_its_output(client: ShellClient) -> None:
    result = client.slow()
    assert result == 199
    assert result.stdout == "begun\n"
    assert "Timeout expired after 0.5 s" in result.stderr


def test_mapping_without_command_has_the_default_one(client: ShellClient) -> None:
    assert client.defaulted().stdout == "Hello\n"


def test_unary_call_of_older_clients_gets_everything_at_once(client: ShellClient) -> None:
    assert client.call("call_method", "both", {}) == ["out\n", "err\n", 0]


def test_streaming_call_ends_with_the_status(client: ShellClient) -> None:
    *output, last = client.streamingcall("call_method", "exit_code", {}, "4")
    assert output == []
    assert last == ["", "", 4.0]


class UnaryShell(Shell):
    """A driver as it was before 0.9, with a unary `call_method` only."""

    def call_method(self, method: str, env: Any, *args: str) -> tuple[str, str, int]:
        """Answer as those did."""
        return f"{method} {args[0]}", "", 5

    call_method.marker_drivercall = "07c9b9cc"  # type: ignore[attr-defined]

    DriverCall = Shell.__mro__[1].DriverCall


def test_client_falls_back_to_the_unary_call_of_older_exporters() -> None:
    with serve(UnaryShell(methods={"old": "true"})) as client:
        assert list(client.old("x")) == ["old x", "", 5]


def test_numbers_become_text(client: ShellClient) -> None:
    assert client.args(1, 2.5).stdout == "1|2.5|"
    assert client.env(NAME=7).stdout == "7\n"


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "BASH_FUNC_ls", "PYTHONPATH", "HOME", "KUBECONFIG"]
)
def test_variables_that_decide_what_runs_are_refused(client: ShellClient, name: str) -> None:
    with pytest.raises(DriverInvalidArgument, match=f"{name} is blocked for security reasons"):
        client.env(**{name: "x"})


@pytest.mark.parametrize(
    ("env", "args", "message"),
    [
        ({"A-B": "x"}, (), "'A-B' can't be the name of an environment variable"),
        ({"A": None}, (), "environment variable A must be text or a number"),
        ({"A": "\0"}, (), "environment variable A contains a zero byte"),
        ("A=1", (), "must be a mapping"),
        ({}, (["x"],), r"argument 1 of echo must be text or a number, not \['x'\]"),
        ({}, ("a", True), "argument 2 of echo must be text or a number"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(client: ShellClient, env: Any, args: Any, message: str) -> None:
    with pytest.raises(DriverInvalidArgument, match=message):
        list(client.streamingcall("call_method", "echo", env, *args))


def test_working_directory_is_checked_when_a_method_runs(tmp_path: Path) -> None:
    directory = tmp_path / "work"
    with serve(Shell(methods={"where": "pwd"}, cwd=str(directory))) as client:
        with pytest.raises(
            DriverInvalidArgument, match=r"working directory .*/work of the shell driver does not exist"
        ):
            client.where()
        directory.mkdir()
        assert client.where().stdout == f"{directory}\n"


def test_another_shell_can_be_configured() -> None:
    with serve(Shell(methods={"which": "readlink /proc/$$/exe"}, shell=["sh", "-e", "-c"])) as client:
        assert os.path.basename(client.which().stdout.strip()) == os.path.basename(os.path.realpath("/bin/sh"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"methods": {"a": ""}}, "method 'a': the script is empty"),
        ({"methods": {"a": 3}}, "method 'a': expected a script or a mapping, not 3"),
        ({"methods": {"a": {"comand": "x"}}}, "method 'a': unknown key comand"),
        ({"methods": {"a": {"timeout": -1}}}, "method 'a': timeout must be a number of seconds above 0, not -1"),
        ({"methods": {"a b": "x"}}, "'a b' can't be the name of a method"),
        ({"methods": {"-a": "x"}}, "'-a' can't be the name of a method"),
        ({"methods": ["a"]}, "methods must map names to scripts"),
        ({"methods": {}, "timeout": 0}, "the shell driver: timeout must be"),
        ({"methods": {}, "shell": []}, "shell must be a list of words"),
    ],
)
def test_bad_configuration_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shell(**config)


def test_cli_has_a_command_per_method_with_its_description(client: ShellClient) -> None:
    group = client.cli()
    assert isinstance(group, click.Group)
    assert list(group.commands) == list(METHODS)
    assert group.commands["described"].help == "Says what it does."
    assert client.methods_description["described"] == "Says what it does."


def test_cli_exits_with_the_status_of_the_script(client: ShellClient) -> None:
    assert run_cli(client, "exit_code", "3").exit_code == 3
    assert run_cli(client, "exit_code", "0").exit_code == 0


def test_cli_hands_options_after_the_name_to_the_script(client: ShellClient) -> None:
    assert run_cli(client, "args", "-l", "--color", "x").output == "-l|--color|x|"


def test_cli_sets_variables(client: ShellClient) -> None:
    assert run_cli(client, "env", "-e", "NAME=a=b").output == "a=b\n"
    bad = run_cli(client, "env", "-e", "NAME")
    assert bad.exit_code == 2
    assert "'NAME' is not of the form KEY=VALUE" in bad.output


def test_error_of_the_exporter_keeps_its_reason() -> None:
    with serve(Shell(methods={"a": "true"}, shell=["true"])) as client:
        with pytest.raises(DriverError, match="method b not found in"):
            client.run_method("b")
        assert client.a() == Result(0)
