"""The page about the first lab is true: two machines, on which all of it is typed line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jumpstarter_testbench.consoles import Stage

HERE = Path(__file__).parent
ROOT = HERE.parent

LAB, DESK = "192.168.7.10", "192.168.7.20"
"""The addresses of the page."""


class Machines(NamedTuple):
    """What the page calls machines."""

    prefixes: Mapping[str, Sequence[str]]
    """By name: the command in front of a command that is to run there."""
    addresses: Mapping[str, str]
    """By the address of the page: the real one."""


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=10).stdout


@contextlib.contextmanager
def network_namespaces() -> Iterator[Machines]:
    """Two machines that only a cable joins, for root.

    Raises:
        CalledProcessError: this root may not make any.
    """
    names = {"lab": f"jmp-lab-{os.getpid()}", "desk": f"jmp-desk-{os.getpid()}"}
    with contextlib.ExitStack() as made:
        for name in names.values():
            _ip("netns", "add", name)
            made.callback(_remove, name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names["lab"], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names["desk"])
        for machine, address in (("lab", LAB), ("desk", DESK)):
            _ip("-n", names[machine], "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", names[machine], "link", "set", "eth0", "up")
        yield Machines({machine: ["ip", "netns", "exec", name] for machine, name in names.items()}, {})


def _remove(name: str) -> None:
    for pid in _ip("netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", name)


@contextlib.contextmanager
def loopback_addresses() -> Iterator[Machines]:
    """One machine that plays both, for everybody else."""
    yield Machines({"lab": [], "desk": []}, {LAB: "127.0.0.2", DESK: "127.0.0.3"})


@pytest.fixture
def machines() -> Iterator[Machines]:
    with contextlib.ExitStack() as opened:
        try:
            found = opened.enter_context(network_namespaces())
        except (OSError, subprocess.CalledProcessError):
            found = opened.enter_context(loopback_addresses())
        yield found


def clone(home: Path) -> None:
    """Give a user a checkout, in which files of the test's own don't meet those of the real one."""
    folder = home / "jumpstarter"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv"):
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)


def processes_with(setting: str) -> list[str]:
    """Return the command lines of the processes that have something in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if setting.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.device
@pytest.mark.timeout(240)
@pytest.mark.need("qemu-x86_64", "qemu-img", "genisoimage", "e2fsprogs", "curl")
def test_everything_on_the_page_of_the_first_lab_happens_as_it_says(
    machines: Machines, guest_material: Any, tmp_path: Path
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "SHELL": "/bin/bash --noediting",
        "TMPDIR": str(tmp_path),
        "VIRTUAL_ENV_DISABLE_PROMPT": "1",
    }
    homes = tmp_path / "home"
    stage = Stage(homes, machines.prefixes, env, replace=machines.addresses, prepare=clone)

    stage.perform((HERE / "first-lab.md").read_text())

    assert processes_with(f"TMPDIR={tmp_path}") == []
    written = [path for home in homes.iterdir() for path in home.rglob("*.yaml") if "token: " in path.read_text()]
    assert len(written) >= 5
    assert [path for path in written if path.stat().st_mode & 0o077] == []
