"""Images get onto storage devices and back, past media that come late and devices that hang."""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
from pathlib import Path

import anyio
import pytest
from anyio import EndOfStream, fail_after

from jumpstarter.common import storage
from jumpstarter.common.storage import (
    read_from_storage_device,
    wait_for_storage_device,
    write_to_storage_device,
)

IMAGE = random.Random(1).randbytes(10_000_000)


class Source:
    """A stream that yields an image in chunks of changing size."""

    def __init__(self, image: bytes) -> None:
        self.image, self.at = image, 0

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        size = 1 + self.at % 700_001
        chunk = self.image[self.at : self.at + size]
        self.at += size
        if not chunk:
            raise EndOfStream
        return chunk


class Sink:
    def __init__(self) -> None:
        self.received = b""

    async def send(self, item: bytes) -> None:
        self.received += item


def content(device: Path) -> bytes:
    return device.read_bytes()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Stands for a block device: a file with a size of its own, larger than the image."""
    path = tmp_path / "card"
    path.write_bytes(b"\xff" * 12_000_000)
    return path


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_PAUSE", 0.02)


async def test_an_image_is_written_from_the_beginning(device: Path) -> None:
    await write_to_storage_device(device, Source(IMAGE), leeway=0)
    assert content(device) == IMAGE + b"\xff" * 2_000_000


async def test_nothing_is_written_of_an_empty_image(device: Path) -> None:
    await write_to_storage_device(str(device), Source(b""), leeway=0)
    assert content(device) == b"\xff" * 12_000_000


async def test_writes_are_whole_blocks_at_their_multiples(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = os.write

    def recorded(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(storage.os, "write", recorded)
    await write_to_storage_device(device, Source(IMAGE), leeway=0)
    assert sizes == [4 << 20, 4 << 20, len(IMAGE) - (8 << 20)]


async def test_a_write_that_stops_half_way_goes_on(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(storage.os, "write", lambda descriptor, data: write(descriptor, data[: 1 << 20]))
    await write_to_storage_device(device, Source(IMAGE), leeway=0)
    assert content(device)[: len(IMAGE)] == IMAGE


async def test_the_data_is_synced_on_the_way_and_in_the_end(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(storage, "SYNC_INTERVAL", 4 << 20)
    monkeypatch.setattr(storage.os, "fdatasync", lambda descriptor: calls.append("fdatasync"))
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: calls.append("fsync"))
    await write_to_storage_device(device, Source(IMAGE), leeway=0)
    assert calls == ["fdatasync", "fdatasync", "fsync"]


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
async def test_an_error_of_any_sync_is_final_because_the_next_one_would_hide_it(
    device: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    errors = [OSError(errno.EIO, "Input/output error")]

    def sync(descriptor: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(storage, "SYNC_INTERVAL", 4 << 20)
    monkeypatch.setattr(storage.os, call, sync)
    with pytest.raises(OSError, match=f"can't sync {device}: Input/output error; what was written may be lost"):
        await write_to_storage_device(device, Source(IMAGE), leeway=0)


async def test_another_sync_error_is_told_with_the_device(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", fsync)
    with pytest.raises(OSError, match=f"can't sync {device}: No space"):
        await write_to_storage_device(device, Source(IMAGE), leeway=0)


async def test_a_device_that_hangs_in_sync_ends_in_a_timeout_and_not_the_loop(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: release.wait(10))
    before = set(os.listdir("/dev/fd"))
    try:
        with fail_after(5), pytest.raises(TimeoutError, match=f"{device} has not stored everything after 0.1 s"):
            await write_to_storage_device(device, Source(IMAGE), fsync_timeout=0.1, leeway=0)
    finally:
        release.set()
    assert len(set(os.listdir("/dev/fd"))) <= len(before)


async def test_cancelling_a_write_closes_the_device(device: Path) -> None:
    class Endless:
        async def receive(self) -> bytes:
            await anyio.sleep_forever()
            return b""

    before = os.listdir("/dev/fd")
    with anyio.move_on_after(0.1) as scope:
        await write_to_storage_device(device, Endless(), leeway=0)
    assert scope.cancelled_caught
    assert len(os.listdir("/dev/fd")) <= len(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full exists on Linux only")
async def test_a_full_device_is_told_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_size", lambda device: 1)  # /dev/full has none
    with pytest.raises(OSError, match=r"can't write to /dev/full at byte 0: No space left on device") as caught:
        await write_to_storage_device("/dev/full", Source(IMAGE), leeway=0)
    assert caught.value.errno == errno.ENOSPC


async def test_the_log_tells_every_fifty_mebibytes(
    device: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(storage, "LOG_INTERVAL", 4 << 20)
    await write_to_storage_device(device, Source(IMAGE), leeway=0, logger=logging.getLogger("mine"))
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("mine", f"4.0 MiB written to {device}"),
        ("mine", f"8.0 MiB written to {device}"),
        ("mine", f"9.5 MiB written to {device}"),
    ]


async def test_a_device_is_read_to_its_end(device: Path) -> None:
    sink = Sink()
    await read_from_storage_device(device, sink)
    assert sink.received == content(device)


async def test_a_read_error_is_told_with_the_place(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(storage.os, "read", read)
    with pytest.raises(OSError, match=rf"can't read {device} at byte 0: Input/output error"):
        await read_from_storage_device(device, Sink())


async def test_a_device_that_appears_late_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "late"
    with fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                assert await wait_for_storage_device(path, "wb", 10) == path

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            path.write_bytes(b"medium")


async def test_a_device_without_medium_is_a_timeout_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"absent is not ready after 0.1 s: No such file"):
        await wait_for_storage_device(tmp_path / "absent", "rb", 0.1)
    (tmp_path / "empty").touch()
    with pytest.raises(TimeoutError, match="no medium"):
        await wait_for_storage_device(tmp_path / "empty", "rb", 0.1)


async def test_an_input_output_error_is_waited_through(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[int] = [errno.EIO, errno.ENOMEDIUM]
    size = storage._size

    def flaky(path: Path) -> int:
        if errors:
            number = errors.pop()
            raise OSError(number, os.strerror(number))
        return size(path)

    monkeypatch.setattr(storage, "_size", flaky)
    assert await wait_for_storage_device(device, "rb", 5) == device
    assert not errors


async def test_an_error_that_waiting_will_not_change_is_raised(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        await wait_for_storage_device(tmp_path, "wb", 5)


async def test_other_modes_are_refused(device: Path) -> None:
    with pytest.raises(ValueError, match="'r'"):
        await wait_for_storage_device(device, "r", 1)  # type: ignore[arg-type]
