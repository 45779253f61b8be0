"""Drives of boards: finding the right one, writing in steps, and what is noticed when it goes away."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from jumpstarter_testbench.board_drives import LoopPlug

from jumpstarter_driver_opendal import volumes
from jumpstarter_driver_opendal.volumes import (
    Drive,
    Volume,
    VolumeError,
    VolumeMissing,
    copy_image,
    find_volume,
    is_present,
    open_volume,
    wait_for_volume,
    wait_until_gone,
)

DRIVE = Drive(what="the drive of the test", markers=("MARK.TXT",), name="JMP VOLUME")


@pytest.fixture(autouse=True)
def other_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take drives with ext2 too, as not every kernel has FAT."""
    monkeypatch.setattr(volumes, "FAT", (*volumes.FAT, "ext2"))


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[LoopPlug]:
    """What mounts drives."""
    plug = LoopPlug(tmp_path / "media")
    yield plug
    plug.close()


def connect(plug: LoopPlug, folder: Path, label: str = "JMP VOLUME", marker: str = "mark.txt") -> None:
    image = folder / f"{label}.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    plug.file_system.make(image, "label", {marker: b"\xffhello\0"})
    plug.connect(image, label)


def test_drive_is_found_by_its_marker_and_name(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)

    volume = find_volume(DRIVE)

    # A space in a path is escaped in /proc/self/mountinfo.
    assert (volume.device, volume.mount_point) == (plug.device, tmp_path / "media" / "JMP VOLUME")
    assert is_present(volume)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "OTHER"},
        {"serial_number": "123"},
        {"usb_port": "1-1"},
        {"device": "/dev/null"},
        {"device": "/dev/does-not-exist"},
        {"markers": ("OTHER.TXT",)},
    ],
)
def test_everything_that_is_given_must_fit(plug: LoopPlug, tmp_path: Path, other: dict[str, str]) -> None:
    connect(plug, tmp_path)

    with pytest.raises(VolumeMissing, match=r"the drive of the test is not there: no drive with .* a file"):
        find_volume(replace(DRIVE, **other))


def test_device_tells_drives_apart_also_by_a_link(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)
    link = tmp_path / "link"
    link.symlink_to(plug.device)

    assert find_volume(replace(DRIVE, device=str(link))).device == plug.device


def test_texts_are_read_whatever_their_case(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)

    with open_volume(find_volume(DRIVE), DRIVE) as opened:
        assert opened.read_text("MARK.TXT") == "�hello"
        assert opened.read_text("NONE.TXT") is None


def test_volume_that_was_replaced_is_not_written(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)
    volume = find_volume(DRIVE)
    place = plug.mount_point
    plug.disconnect()
    assert not is_present(volume)

    # Something else is in its place now, which must not be taken for it.
    place.mkdir()
    (place / "MARK.TXT").touch()
    with pytest.raises(VolumeMissing, match="is not there any more"), open_volume(volume, DRIVE):
        pytest.fail("it was opened")
    (place / "MARK.TXT").unlink()
    connect(plug, tmp_path)
    with pytest.raises(VolumeMissing, match="is not there any more"), open_volume(volume, DRIVE):
        pytest.fail("it was opened")


def test_volume_that_lost_its_marker_is_not_written(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)
    volume = find_volume(DRIVE)
    (plug.mount_point / "mark.txt").unlink()

    with pytest.raises(VolumeMissing), open_volume(volume, DRIVE):
        pytest.fail("it was opened")


@pytest.mark.parametrize("size", [1, 511, 512, 513, 300_000, 600_001])
def test_files_are_written_step_by_step_with_a_short_last_one(plug: LoopPlug, tmp_path: Path, size: int) -> None:
    connect(plug, tmp_path)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))

    with open_volume(find_volume(DRIVE), DRIVE) as opened:
        steps = list(opened.write("a long name of a file.bin", source))

    assert steps == sorted(set(steps))
    assert steps[-1] == size
    assert size <= volumes.TAIL or steps[-1] - (steps[-2] if len(steps) > 1 else 0) == volumes.TAIL
    assert (plug.mount_point / "a long name of a file.bin").read_bytes() == source.read_bytes()


def test_links_on_a_drive_are_not_followed(plug: LoopPlug, tmp_path: Path) -> None:
    connect(plug, tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (plug.mount_point / "firmware.bin").symlink_to(victim)
    source = tmp_path / "source"
    source.write_bytes(b"theirs")

    with (
        open_volume(find_volume(DRIVE), DRIVE) as opened,
        pytest.raises(VolumeError, match="failed after 0 of 6 bytes"),
    ):
        list(opened.write("firmware.bin", source))
    assert victim.read_text() == "mine"


async def test_a_cancelled_copy_ends_with_its_step_and_leaves_nothing_open(
    plug: LoopPlug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "STEP", 512)
    connect(plug, tmp_path)
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    descriptors = set(os.listdir("/proc/self/fd"))
    steps = threading.Semaphore(0)
    write = volumes.OpenVolume.write

    def counted(self: volumes.OpenVolume, name: str, path: Path) -> Iterator[int]:
        for written in write(self, name, path):
            steps.release()
            yield written

    monkeypatch.setattr(volumes.OpenVolume, "write", counted)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            copy_image, find_volume(DRIVE), DRIVE, "x.bin", lambda opened: source, logging.getLogger(__name__)
        )
        await anyio.to_thread.run_sync(steps.acquire)
        tasks.cancel_scope.cancel()

    assert (plug.mount_point / "x.bin").stat().st_size < 1 << 20
    assert set(os.listdir("/proc/self/fd")) <= descriptors


async def test_a_drive_that_appears_and_goes_away_is_noticed(plug: LoopPlug, tmp_path: Path) -> None:
    with pytest.raises(VolumeMissing):
        await wait_for_volume(DRIVE, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_volume, DRIVE, 30)
        await anyio.to_thread.run_sync(connect, plug, tmp_path)
    volume = find_volume(DRIVE)

    assert not await wait_until_gone(volume, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_until_gone, volume, 30)
        await anyio.to_thread.run_sync(plug.disconnect)
    assert await wait_until_gone(volume, 0)


def unmounted(**facts: object) -> Volume:
    values = {"device": "/dev/sdx", "number": (8, 250), "mount_point": None, "mount_id": None, "serial_number": "S1"}
    return Volume(**{**values, "usb_port": "1-1", "vendor": 0x2E8A, "sequence": 1, **facts})


@contextmanager
def as_user(monkeypatch: pytest.MonkeyPatch, *found: Volume) -> Iterator[None]:
    monkeypatch.setattr(volumes, "volumes", lambda: list(found))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    yield


def test_drive_that_nobody_mounted_is_named_with_the_command_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = replace(DRIVE, name=None, vendors=(0x2E8A,))

    with (
        as_user(monkeypatch, unmounted()),
        pytest.raises(VolumeError, match=r"seems to be /dev/sdx, not mounted, .*udisksctl mount -b /dev/sdx'"),
    ):
        find_volume(drive)


def test_foreign_drives_that_nobody_mounted_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = replace(DRIVE, name=None, vendors=(0x0483,))

    with as_user(monkeypatch, unmounted()), pytest.raises(VolumeMissing):
        find_volume(drive)
    with as_user(monkeypatch, unmounted()), pytest.raises(VolumeError, match="seems to be"):
        find_volume(replace(drive, serial_number="S1"))
