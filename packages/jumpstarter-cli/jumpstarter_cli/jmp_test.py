"""The root of `jmp`: its tree, what loading costs, and what every command promises."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from jumpstarter_cli_common.exceptions import ClickExceptionRed
from jumpstarter_cli_common.lazy import CommandTable

from .conftest import JMP
from .extension import extension, missing
from .jmp import COMMANDS, jmp

Run = Callable[..., subprocess.CompletedProcess[str]]

EXPECTED = {
    "auth": {"status", "refresh", "rotate"},
    "config": {"client", "exporter"},
    "config client": {"create", "current", "delete", "list", "rename", "show", "use", "validate"},
    "config exporter": {"create", "delete", "edit", "list", "rename", "show", "validate"},
    "create": {"lease"},
    "delete": {"leases"},
    "driver": {"doctor", "list", "new", "show", "version"},
    "get": {"exporters", "leases"},
    "update": {"lease"},
}


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None
                yield from walk(child, (*path, name))


def test_the_root_lists_all_commands() -> None:
    result = CliRunner().invoke(jmp, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


def test_the_whole_tree_can_be_walked() -> None:
    tree = dict(walk(jmp))
    for path, names in EXPECTED.items():
        group = tree[path]
        assert isinstance(group, click.Group)
        assert set(group.commands) == names


def test_every_command_has_a_help_page_and_a_help_text() -> None:
    for path, command in walk(jmp):
        result = CliRunner().invoke(jmp, [*path.split(), "--help"])
        assert result.exit_code == 0, (path, result.output)
        assert command.get_short_help_str(), path


def test_listings_say_of_lazy_commands_what_they_say_themselves() -> None:
    for path, command in walk(jmp):
        table = getattr(command, "commands", None)
        if isinstance(table, CommandTable):
            for name in table:
                told = table[name].get_short_help_str(100)
                assert table.short_help(name).rstrip(".") == told.rstrip("."), (path, name)


def test_no_option_is_declared_twice() -> None:
    for path, command in walk(jmp):
        names = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
        assert len(names) == len(set(names)), path


def test_without_a_command_the_help_is_shown_as_a_usage_error() -> None:
    result = CliRunner().invoke(jmp, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_an_unknown_command_is_a_usage_error(run_jmp: Run) -> None:
    result = run_jmp("nope")
    assert (result.returncode, result.stdout) == (2, "")
    assert "No such command 'nope'" in result.stderr


@pytest.mark.parametrize("args", [("--version",), ("version",), ("driver", "version"), ("v",)])
def test_the_version_can_be_asked_for_everywhere(args: tuple[str, ...], run_jmp: Run) -> None:
    result = run_jmp(*args)
    assert result.returncode == 0
    assert result.stdout.startswith("Jumpstarter v")


def test_a_failing_command_shows_one_message_and_no_traceback(run_jmp: Run) -> None:
    result = run_jmp("get", "leases")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: No client config is chosen.")
    assert "Traceback" not in result.stderr


def test_with_machine_output_a_failure_is_a_json_object(run_jmp: Run) -> None:
    result = run_jmp("get", "leases", "-o", "json")
    assert json.loads(result.stderr)["reason"] == "configuration"


def test_a_reader_that_goes_away_is_no_message() -> None:
    process = subprocess.Popen([*JMP, "driver", "list", "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_commands_of_a_package_that_is_missing_say_how_to_get_it() -> None:
    stand_in = missing("admin", "jumpstarter-cli-admin", "Administer clients.")
    assert extension("no_such_package:admin", stand_in) is stand_in
    with pytest.raises(ClickExceptionRed, match="not installed") as refused:
        stand_in.main(["get", "client", "--namespace", "x"], standalone_mode=False)
    assert refused.value.hint == "Install it where jmp is installed: pip install jumpstarter-cli-admin"


def test_completion_of_commands_loads_none() -> None:
    code = (
        "import sys\n"
        "from click.shell_completion import ShellComplete\n"
        "from jumpstarter_cli.jmp import jmp\n"
        "found = ShellComplete(jmp, {}, 'jmp', '_JMP_COMPLETE').get_completions([], 's')\n"
        "print([item.value for item in found], 'jumpstarter_cli.shell' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "['shell'] False\n"


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["config", "client"], "us", ["use"]),
        (["config", "client", "use"], "", ["a", "b"]),
        (["get", "leases", "--client"], "b", ["b"]),
        (["shell", "--client"], "", ["a", "b"]),
        (["driver", "show"], "MockPow", ["MockPower"]),
        (["nope"], "", None),
    ],
)
def test_completion_finds_names_of_this_machine(
    words: list[str],
    incomplete: str,
    expected: list[str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JMP_CLIENT_CONFIG_HOME", str(tmp_path))
    (tmp_path / "clients").mkdir()
    for alias in "ab":
        (tmp_path / "clients" / f"{alias}.yaml").touch()
    items = ShellComplete(jmp, {}, "jmp", "_JMP_COMPLETE").get_completions(words, incomplete)
    if expected is not None:
        assert [item.value for item in items] == expected


# --- what it costs ---------------------------------------------------------------------------------------------------

MEASURE = """\
import sys
sys.argv = sys.argv[1:]
from jumpstarter_cli.jmp import jmp
try:
    jmp(prog_name="jmp")
except SystemExit:
    pass
heavy = [name for name in ("grpc", "pydantic", "yaml", "rich", "aiohttp", "asyncio") if name in sys.modules]
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
print(len(sys.modules), peak, heavy, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def compiled_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which byte code is kept, as on a user's machine."""
    import os

    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return env | {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("pycache"))}


def cpu_seconds(command: list[str], env: dict[str, str], times: int = 8) -> float:
    """Return the least CPU time of several runs, which disturbances by others can only raise."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=env, capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    once()
    return min(once() for _ in range(times))


@pytest.mark.parametrize("args", [["--help"], ["version"]])
def test_starting_costs_at_most_six_times_an_empty_python(args: list[str], compiled_env: dict[str, str]) -> None:
    program = [sys.executable, "-c", "import sys; from jumpstarter_cli.jmp import jmp; jmp(prog_name='jmp')", *args]
    # Noise on a shared machine only ever adds, so one good round out of three is the truth.
    factors = []
    for _ in range(3):
        empty = cpu_seconds([sys.executable, "-c", "pass"], compiled_env)
        factors.append(cpu_seconds(program, compiled_env) / empty)
        if factors[-1] <= 6:
            return
    pytest.fail(f"jmp {' '.join(args)} costs {min(factors):.1f} times an empty Python")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
@pytest.mark.parametrize("args", [["--help"], ["version"]])
def test_starting_loads_little(args: list[str], compiled_env: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, "jmp", *args],
        env=compiled_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules, kilobytes, heavy = result.stderr.strip().split(" ", 2)
    assert heavy == "[]"
    assert int(modules) <= 250
    assert int(kilobytes) <= 30 * 1024
