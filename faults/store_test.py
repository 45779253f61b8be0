"""Stores that fail under a controller: full, locked, read-only, damaged; what was acknowledged is never lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter_testbench.requirements import unavailable

from .lab import RECOVERY, FaultLab
from .life import BOARD, Life
from .report import Outcome

Note = Callable[[Outcome], None]
Start = Callable[..., FaultLab]

STORE = "lab.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB."""
    if os.geteuid() != 0:
        unavailable("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        unavailable(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Take all room of a file system."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    try:
        yield
    finally:
        ballast.unlink()


def test_a_full_disk_refuses_what_it_can_not_keep_and_leaves_leases_running(
    small_disk: Path, fresh_lab: Start, note: Note
) -> None:
    outcome = Outcome("full disk", "call")
    note(outcome)
    lab = fresh_lab(data=small_disk / "data")
    life = Life(lab)
    life.reach("stream")
    with filled(small_disk):
        with pytest.raises(ConnectionError, match="can't keep records at present"):
            lease_again_and_again(lab)
        assert life.worker.must("use") == life.lease
        assert life.worker.must("echo") == "echo"
        # A new way to the exporter needs no record.
        lab.use("alice", life.lease)
        refused = lab.jmp("prover", "create", "lease", "-n", BOARD, "--duration", "1m")
        assert refused.end() == 1
        assert "can't keep records" in refused.text, refused.text
    healed = time.monotonic()
    for item in list(lab.observer.leases.values()):
        if item.client == "prover" and not item.ended:
            lab.release("prover", item.name)
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    outcome.recovered = time.monotonic() - healed
    assert outcome.recovered < RECOVERY
    life.check()
    outcome.passed = True


def test_a_lease_that_is_given_back_while_the_disk_is_full_ends_when_it_is_not(
    small_disk: Path, fresh_lab: Start, note: Note
) -> None:
    outcome = Outcome("full disk", "release")
    note(outcome)
    lab = fresh_lab(data=small_disk / "data")
    life = Life(lab)
    life.reach("stream")
    with filled(small_disk):
        assert life.worker.must("use") == life.lease
        life.worker.send("exit")
        time.sleep(4)
    healed = time.monotonic()
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    outcome.recovered = time.monotonic() - healed
    assert outcome.recovered < RECOVERY
    life.check()
    outcome.passed = True


def test_a_store_that_another_program_locks_is_waited_for(fresh_lab: Start, note: Note) -> None:
    outcome = Outcome("locked store", "call")
    note(outcome)
    lab = fresh_lab()
    life = Life(lab)
    life.reach("stream")
    assert lab.data is not None
    try:
        with sqlite3.connect(lab.data / STORE, isolation_level=None, timeout=1) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert life.worker.must("use") == life.lease
            time.sleep(3)
            other.execute("ROLLBACK")
        other.close()
    except sqlite3.OperationalError as error:
        # The server lets nobody in, which is as good.
        if "locked" not in str(error):
            raise
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    life.check()
    outcome.passed = True


def test_a_read_only_store_is_told_at_the_start_and_nothing_is_lost(
    small_disk: Path, fresh_lab: Start, note: Note
) -> None:
    outcome = Outcome("read-only store", "ready")
    note(outcome)
    lab = fresh_lab(data=small_disk / "data")
    life = Life(lab)
    life.reach("stream")
    lab.controller.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = lab.launch_controller()
    assert refused.end() != 0
    assert "Error: " in refused.text, refused.text
    assert str(lab.data) in refused.text, refused.text
    assert "read" in refused.text, refused.text
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    outcome.recovered = go_on(lab, life)
    outcome.passed = True


def test_a_damaged_store_stops_the_start_is_left_as_it_is_and_can_be_restored(fresh_lab: Start, note: Note) -> None:
    outcome = Outcome("damaged store", "ready")
    note(outcome)
    lab = fresh_lab()
    life = Life(lab)
    life.reach("stream")
    # Told to end, so that all is in the file: what is in its log would make good for it.
    lab.controller.send(signal.SIGTERM)
    assert lab.controller.end() == 0, lab.controller.text
    assert lab.data is not None
    kept = lab.folder / "kept"
    shutil.copytree(lab.data, kept)
    store = lab.data / STORE
    with store.open("r+b") as file:
        file.seek(0)
        file.write(b"\xa5" * 8192)
    before = store.read_bytes()
    refused = lab.launch_controller()
    assert refused.end() != 0
    assert "damaged" in refused.text or "not a database" in refused.text, refused.text
    assert str(store) in refused.text, refused.text
    assert store.read_bytes() == before
    shutil.rmtree(lab.data)
    kept.rename(lab.data)
    outcome.recovered = go_on(lab, life)
    outcome.passed = True


@pytest.mark.parametrize("lost", [100, 5000])
def test_a_log_of_the_store_that_breaks_off_is_no_obstacle(lost: int, fresh_lab: Start, note: Note) -> None:
    outcome = Outcome(f"log torn by {lost} bytes", "idle")
    note(outcome)
    lab = fresh_lab()
    names = [lab.lease("prover", BOARD) for _ in range(3)]
    for name in names:
        lab.release("prover", name)
    lab.wait_available(BOARD)
    lab.controller.close()
    assert lab.data is not None
    log = lab.data / f"{STORE}-wal"
    if log.exists():
        os.truncate(log, max(log.stat().st_size - lost, 0))
    lab.start_controller()
    for name in names:
        # What was in the log last is lost, which may be the end of a lease.
        with suppress(ConnectionError):
            lab.release("prover", name)
    lab.wait_available(BOARD)
    life = Life(lab)
    life.reach("call")
    life.let_go()
    assert life.finish() == 0, life.shell.text
    life.hand_on()
    outcome.passed = True


def test_a_second_controller_of_the_same_data_is_refused(fresh_lab: Start) -> None:
    lab = fresh_lab()
    second = lab.start("second", "controller", "run", "--data", str(lab.data), "--listen", "127.0.0.1:0")
    assert second.end() == 1
    assert "Error: " in second.text
    assert str(lab.data) in second.text, second.text
    life = Life(lab)
    life.reach("call")
    life.let_go()
    assert life.finish() == 0, life.shell.text
    life.hand_on()
    life.check()


def lease_again_and_again(lab: FaultLab) -> None:
    """Make leases until what room is left inside of the store's files is used up."""
    for _ in range(200):
        lab.lease("prover", BOARD)


def go_on(lab: FaultLab, life: Life) -> float:
    """Start the controller again and have the life go on; return after how long the board was had by the next one."""
    begun = time.monotonic()
    lab.start_controller()
    assert life.worker.must("echo") == "echo"
    life.let_go()
    assert life.finish() == 0, life.shell.text
    life.hand_on()
    life.check()
    passed = time.monotonic() - begun
    assert passed < RECOVERY
    return passed
