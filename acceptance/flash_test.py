"""Images and files that can't be written whole: nothing half is left behind, and both sides know why."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import signal
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jumpstarter_testing import eventually

from .conftest import Bench, Journal
from .programs import LIMIT, J, Outcome, Program

Run = Callable[..., Outcome]
Start = Callable[..., Program]
OpenBench = Callable[..., Bench]

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The directory of the flasher."""
    path = tmp_path / "disk"
    path.mkdir()
    return path


@pytest.fixture
def flasher(config: Callable[..., str], disk: Path, bench: OpenBench) -> dict[str, str]:
    """The environment of programs that reach a flasher, which takes 64 MiB."""
    return bench(config(disk={"type": "Disk", "config": {"directory": str(disk), "max_size": 64 * MIB}})).env


IMAGE = os.urandom(3 * MIB)


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        ("gzip", gzip.compress(IMAGE, 1)[:-1000]),
        ("xz", lzma.compress(IMAGE, preset=0)[:-1000]),
        ("bz2", bz2.compress(IMAGE, 1)[:-1000]),
        ("gzip", gzip.compress(IMAGE, 1)[:MIB] + bytes(1000) + gzip.compress(IMAGE, 1)[MIB + 1000 :]),
        ("xz", lzma.compress(IMAGE, preset=0)[:MIB] + bytes(1000) + lzma.compress(IMAGE, preset=0)[MIB + 1000 :]),
        ("gzip", IMAGE),
        ("zstd", IMAGE),
    ],
    ids=["short gzip", "short xz", "short bz2", "corrupt gzip", "corrupt xz", "no gzip", "no zstd"],
)
def test_a_broken_image_is_told_and_not_kept(
    compression: str, data: bytes, flasher: dict[str, str], run: Run, disk: Path, journal: Journal, tmp_path: Path
) -> None:
    image = tmp_path / "image.bin"
    image.write_bytes(data)
    message = run(J, "disk", "flash", str(image), "--compression", compression, env=flasher).failure()
    assert re.search(compression, message)
    assert re.search("corrupt|cut short|truncated|end", message)
    assert list(disk.iterdir()) == []
    assert any(line.startswith("aborted") for line in journal.lines)
    assert "flashed" not in journal.lines


def test_a_decompression_bomb_stops_at_the_limit_and_needs_little_memory(
    config: Callable[..., str], disk: Path, bench: OpenBench, run: Run, tmp_path: Path
) -> None:
    shell, env = bench(config(disk={"type": "Disk", "config": {"directory": str(disk), "max_size": 64 * MIB}}))
    image = tmp_path / "bomb.gz"
    packer = zlib.compressobj(1, wbits=31)
    with image.open("wb") as file:
        for _ in range(1024):
            file.write(packer.compress(bytes(MIB)))
        file.write(packer.flush())
    before = peak_memory(shell.process.pid)
    message = run(J, "disk", "flash", str(image), "--compression", "gzip", env=env).failure()
    assert "64" in message
    assert re.search("limit|at most|larger|max_size", message)
    assert list(disk.iterdir()) == []
    assert peak_memory(shell.process.pid) - before < 100 * MIB


def peak_memory(pid: int) -> int:
    """Return the most memory, in bytes, that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize(("name", "expected"), [("missing.img", "missing.img"), ("", "irectory")])
def test_an_image_that_cannot_be_read_is_told_before_the_device_is_touched(
    name: str, expected: str, flasher: dict[str, str], run: Run, tmp_path: Path, journal: Journal
) -> None:
    message = run(J, "disk", "flash", str(tmp_path / name), env=flasher).failure()
    assert expected in message
    assert str(tmp_path) in message
    assert journal.lines == ["opened"]


def test_a_device_that_cannot_be_read_leaves_no_file(flasher: dict[str, str], run: Run, tmp_path: Path) -> None:
    target = tmp_path / "dump.img"
    message = run(J, "disk", "dump", str(target), env=flasher).failure()
    assert "this disk can't be read" in message
    assert not target.exists()


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(disk: Path) -> Iterator[Path]:
    """The directory of the flasher, with room for 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_image_before_stays(
    small_disk: Path, flasher: dict[str, str], run: Run, tmp_path: Path, journal: Journal
) -> None:
    small, large = tmp_path / "small.img", tmp_path / "large.img"
    small.write_bytes(IMAGE[:1000])
    large.write_bytes(IMAGE * 3)
    assert run(J, "disk", "flash", str(small), env=flasher).code == 0
    message = run(J, "disk", "flash", str(large), env=flasher).failure()
    assert "no space left" in message.lower()
    assert [path.name for path in small_disk.iterdir()] == ["image"]
    assert (small_disk / "image").read_bytes() == IMAGE[:1000]
    assert any(line.startswith("aborted: OSError") for line in journal.lines)


def test_a_full_disk_of_the_client_is_told(
    config: Callable[..., str], bench: OpenBench, run: Run, tmp_path: Path
) -> None:
    root = tmp_path / "served"
    root.mkdir()
    (root / "image").write_bytes(IMAGE)
    env = bench(config(storage=storage(root))).env
    message = run(J, "storage", "read-into-path", "image", "/dev/full", env=env).failure()
    assert "/dev/full" in message
    assert "No space left" in message


# --- clients that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_that_dies_in_an_upload_leaves_nothing_and_the_driver_is_told(
    number: int, flasher: dict[str, str], start: Start, run: Run, disk: Path, journal: Journal, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    upload = start(J, "disk", "flash", str(pipe), env=flasher)
    with pipe.open("wb") as source:
        source.write(IMAGE)
        source.flush()
        eventually(lambda: partial_with_data(disk), timeout=LIMIT)
        upload.send(number)
        end = upload.end()
    journal.wait_for("aborted: ")
    eventually(lambda: empty(disk), timeout=LIMIT)
    assert end.code == (-9 if number == signal.SIGKILL else 128 + number)
    # The device is free again.
    image = tmp_path / "image.img"
    image.write_bytes(IMAGE)
    assert run(J, "disk", "flash", str(image), env=flasher).code == 0
    assert (disk / "image").read_bytes() == IMAGE


def partial_with_data(folder: Path) -> None:
    (partial,) = folder.iterdir()
    assert partial.name != "image"
    assert partial.stat().st_size > 0


def empty(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_an_upload_to_a_storage_whose_client_dies_leaves_nothing(
    config: Callable[..., str], bench: OpenBench, start: Start, run: Run, tmp_path: Path
) -> None:
    root, pipe = tmp_path / "served", tmp_path / "pipe"
    os.mkfifo(pipe)
    env = bench(config(storage=storage(root))).env
    upload = start(J, "storage", "write-from-path", "image", str(pipe), env=env)
    with pipe.open("wb") as source:
        source.write(IMAGE)
        source.flush()
        eventually(lambda: partial_with_data(root), timeout=LIMIT)
        # Whoever lists meanwhile sees nothing of it.
        assert run(J, "storage", "ls", "/", env=env).out.split() == ["/"]
        upload.stop(signal.SIGKILL)
    eventually(lambda: empty(root), timeout=LIMIT)


# --- out of the root -------------------------------------------------------------------------------------------------


def storage(root: Path) -> dict[str, object]:
    return {
        "type": "jumpstarter_driver_opendal.driver.Opendal",
        "config": {"scheme": "fs", "kwargs": {"root": str(root)}},
    }


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "..\\secret", "out/secret", "link", "deep/../out/secret"]
)
def test_nothing_outside_of_a_served_root_is_read_or_written(
    path: str, config: Callable[..., str], bench: OpenBench, run: Run, tmp_path: Path
) -> None:
    root, outside = tmp_path / "served", tmp_path / "outside"
    outside.mkdir()
    (root / "deep").mkdir(parents=True)
    (root / "out").symlink_to(outside)
    (root / "link").symlink_to(outside / "secret")
    for place in (tmp_path, outside):
        (place / "secret").write_text("hush")
    source = tmp_path / "source"
    source.write_text("evil")
    env = bench(config(storage=storage(root))).env
    for command in (["read-bytes", path], ["write-from-path", path, str(source)], ["rename", "deep", f"{path}/x"]):
        result = run(J, "storage", *command, env=env)
        assert "out of the storage's root" in result.failure()
        assert "hush" not in result.out
    for place in (tmp_path, outside):
        assert (place / "secret").read_text() == "hush"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_removing_a_link_does_not_remove_what_it_leads_to(
    config: Callable[..., str], bench: OpenBench, run: Run, tmp_path: Path
) -> None:
    root, outside = tmp_path / "served", tmp_path / "outside"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("hush")
    (root / "out").symlink_to(outside)
    env = bench(config(storage=storage(root))).env
    assert run(J, "storage", "remove-all", "/", env=env).code == 0
    assert (outside / "secret").read_text() == "hush"
