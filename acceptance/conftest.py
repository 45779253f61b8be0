"""Programs, configs and journals for the tests; no output of any program may hold a traceback."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jumpstarter_testing import eventually

from .programs import BIN, JMP, LIMIT, Outcome, Program, Terminal

DRIVERS = Path(__file__).parent / "drivers"

METADATA = {"namespace": "lab", "name": "bench"}


@pytest.fixture
def program_env(tmp_path: Path) -> dict[str, str]:
    """An environment in which the installed programs and the drivers of this folder are found, and no config."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JMP_", "JUMPSTARTER_"))}
    home = tmp_path / "home"
    home.mkdir()
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(DRIVERS),
        "PYTHONUNBUFFERED": "1",
        "TERM": "dumb",
        "SHELL": "/bin/bash",
    }


@pytest.fixture
def tracebacks_expected() -> list[bool]:
    """What a test that wants tracebacks, as with `--log-level debug`, appends True to."""
    return []


@pytest.fixture
def start(
    program_env: dict[str, str], tmp_path: Path, tracebacks_expected: list[bool]
) -> Iterator[Callable[..., Program]]:
    """Start a program; what still runs at the end of the test is killed."""
    started: list[Program] = []

    def start(*command: str, env: dict[str, str] | None = None, **options: Any) -> Program:
        folder = tmp_path / f"program-{len(started)}"
        folder.mkdir()
        started.append(Program(command, program_env | (env or {}), folder, **options))
        return started[-1]

    yield start
    for program in reversed(started):
        program.close()
    if not tracebacks_expected:
        for program in started:
            assert "Traceback" not in program.out + program.err


@pytest.fixture
def run(start: Callable[..., Program]) -> Callable[..., Outcome]:
    """Run a program to its end."""

    def run(*command: str, **options: Any) -> Outcome:
        return start(*command, **options).end()

    return run


@pytest.fixture
def terminal(program_env: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Start a program at a terminal of its own."""
    opened: list[Terminal] = []

    def open_terminal(*command: str) -> Terminal:
        opened.append(Terminal(command, program_env | {"TERM": "xterm", "HISTFILE": ""}))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()
        assert "Traceback" not in one.shown


class Journal:
    """What the drivers of a test have written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def wait_for(self, text: str) -> None:
        def written() -> None:
            assert any(line.startswith(text) for line in self.lines), f"{text!r} is not in {self.lines}"

        eventually(written, timeout=LIMIT, interval=0.02)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of the test's drivers."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def config(tmp_path: Path, journal: Journal) -> Callable[..., str]:
    """Write an exporter config and return its path.

    The entries are drivers by name; the class of one without a module is among the drivers of this folder, which
    have a journal.
    """

    def write(text: str | None = None, /, **drivers: dict[str, Any]) -> str:
        path = tmp_path / "exporter.yaml"
        if text is None:
            entries = {name: _entry(entry, journal.path) for name, entry in drivers.items()}
            text = yaml.safe_dump({"metadata": METADATA, "export": entries}, sort_keys=False)
        path.write_text(text)
        return str(path)

    return write


def _entry(entry: dict[str, Any], journal: Path) -> dict[str, Any]:
    kind = entry.get("type")
    if kind is None or "." in kind:
        return entry
    return entry | {"type": f"trouble.{kind}", "config": {"journal": str(journal)} | entry.get("config", {})}


@pytest.fixture
def trouble(config: Callable[..., str]) -> str:
    """The config of an exporter with a driver that fails, blocks and streams on request."""
    return config(trouble={"type": "Trouble"})


@pytest.fixture
def in_shell(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run a command with the devices of an exporter config."""

    def run_in_shell(path: str, *command: str, **options: Any) -> Outcome:
        return run(JMP, "shell", "--exporter-config", path, "--", *command, **options)

    return run_in_shell


class Bench(NamedTuple):
    """An open `jmp shell` that serves an exporter config, and the environment of the programs inside."""

    shell: Program
    env: dict[str, str]


@pytest.fixture
def bench(start: Callable[..., Program]) -> Callable[..., Bench]:
    """Open a shell with the devices of an exporter config; `j` can be run beside it, several at once."""

    def open_bench(path: str, *options: str, **settings: Any) -> Bench:
        words = options or ("--exporter-config", path)
        tell = "echo $JUMPSTARTER_HOST $JMP_GRPC_INSECURE; exec sleep 600"
        shell = start(JMP, "shell", *words, "--", "sh", "-c", tell, **settings)
        shell.wait_for("\n")
        host, *insecure = shell.out.split()
        env = {"JUMPSTARTER_HOST": host, "JMP_DRIVERS_ALLOW": "UNSAFE"}
        return Bench(shell, env | ({"JMP_GRPC_INSECURE": "1"} if insecure else {}))

    return open_bench


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def exporter(start: Callable[..., Program], free_port: int) -> Callable[[str], tuple[Program, list[str]]]:
    """Start `jmp run` for a config and return it with the options that open a shell there."""

    def serve(path: str) -> tuple[Program, list[str]]:
        address = f"127.0.0.1:{free_port}"
        program = start(JMP, "run", "--exporter-config", path, "--tls-grpc-listener", address, "--tls-grpc-insecure")
        program.wait_for("serving on")
        return program, ["--tls-grpc", address, "--tls-grpc-insecure"]

    return serve
