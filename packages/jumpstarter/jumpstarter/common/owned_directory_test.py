"""Temporary directories go with their owners, however those end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jumpstarter.common import owned_directory as module
from jumpstarter.common.owned_directory import LOCK, OwnedDirectory
from jumpstarter.common.tempfile import TemporarySocket

OWNER = """
import sys
from jumpstarter.common.owned_directory import OwnedDirectory
directory = OwnedDirectory(parent=sys.argv[1])
(directory.path / "folder").mkdir()
(directory.path / "folder" / "file").write_text("x")
print(directory.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], Path]]]:
    """Start a process that owns a directory in the test's own one."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", OWNER, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_it_is_private_and_removed_with_all_it_holds(tmp_path: Path) -> None:
    with OwnedDirectory(parent=tmp_path) as directory:
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        (directory.path / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []
    directory.close()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, own: Callable[..., tuple]) -> None:
    process, left = own()
    kill(process)
    assert (left / "folder" / "file").exists()
    with OwnedDirectory(parent=tmp_path) as directory:
        assert list(tmp_path.iterdir()) == [directory.path]


def test_sockets_of_killed_processes_are_removed_too(
    tmp_path: Path, own: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, left = own()
    kill(process)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with TemporarySocket():
        assert not left.exists()


def test_what_a_living_process_uses_stays(tmp_path: Path, own: Callable[..., tuple]) -> None:
    _, used = own()
    with OwnedDirectory(parent=tmp_path):
        assert (used / "folder" / "file").exists()


def test_a_stopped_process_is_no_dead_one(tmp_path: Path, own: Callable[..., tuple]) -> None:
    process, used = own()
    process.send_signal(signal.SIGSTOP)
    with OwnedDirectory(parent=tmp_path):
        assert (used / "folder" / "file").exists()


def test_programs_that_the_owner_started_do_not_keep_its_directory(tmp_path: Path) -> None:
    code = OWNER.replace("print(", "import subprocess; subprocess.Popen(['sleep', '60']); print(")
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            left = Path(process.stdout.readline().strip())
            kill(process)
            OwnedDirectory(parent=tmp_path).close()
            assert not left.exists()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_directories_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / LOCK).touch()
        return path

    unlocked = tmp_path / "jumpstarter-new"
    unlocked.mkdir()
    longer = make("jumpstarter-qemu-1")
    elsewhere = make("elsewhere")
    (tmp_path / "jumpstarter-link").symlink_to(elsewhere)
    OwnedDirectory(parent=tmp_path).close()
    assert all(path.exists() for path in (unlocked, longer, elsewhere, elsewhere / LOCK))

    foreign = make("jumpstarter-foreign")
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    OwnedDirectory(parent=tmp_path).close()
    assert foreign.exists()


def test_what_can_not_be_looked_at_or_removed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "jumpstarter-file").write_text("x")
    odd = tmp_path / "jumpstarter-odd"
    (odd / LOCK).mkdir(parents=True)
    OwnedDirectory(parent=tmp_path).close()
    assert odd.exists()


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with OwnedDirectory(parent=tmp_path) as directory, OwnedDirectory(parent=tmp_path):
        assert directory.path.exists()
    assert list(tmp_path.iterdir()) == []
