"""Copying images to and from block devices, such as SD cards that a multiplexer has just connected."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal, TypeVar

import anyio
from anyio import CapacityLimiter, EndOfStream, to_thread

__all__ = ["read_from_storage_device", "wait_for_storage_device", "write_to_storage_device"]

T = TypeVar("T")
Device = str | PathLike[str]

BLOCK_SIZE = 4 << 20
"""Bytes that are written at once; cards and sticks erase up to 4 MiB at a time, and would rewrite smaller ones."""

READ_SIZE = 1 << 20
"""Bytes that are read and sent at once."""

SYNC_INTERVAL = 64 << 20
"""Bytes after which the kernel is asked to write out, so that the last sync doesn't take minutes."""

LOG_INTERVAL = 50 << 20
"""Bytes between two lines in the log."""

RETRY_PAUSE = 1.0
"""Seconds between two tries."""

_NOT_READY = {errno.ENOENT, errno.ENOMEDIUM if hasattr(errno, "ENOMEDIUM") else errno.ENODEV, errno.EIO}


class _Thread:
    """Runs the blocking calls on one device, without taking threads that others wait for."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(1)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work`; being cancelled waits for it, so that nobody uses the descriptor any more."""
        return await to_thread.run_sync(work, *args, limiter=self._limiter)

    async def run_abandonable(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work`, which may hang; being cancelled leaves it to itself."""
        return await to_thread.run_sync(work, *args, abandon_on_cancel=True, limiter=self._limiter)


def _size(device: Device) -> int:
    """Open the device and return its size in bytes; unlike a status call this waits for the medium."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


async def wait_for_storage_device(
    storage_device: Device,
    mode: Literal["wb", "rb"],
    timeout: float = 10,
    *,
    logger: logging.Logger | None = None,
) -> Device:
    """Wait until a device is there and has a medium, and return it.

    Args:
        storage_device: path of the device.
        mode: `wb` or `rb`, what it is needed for.
        timeout: seconds to wait for it.
        logger: where to tell about it.

    Raises:
        ValueError: the mode is another one.
        TimeoutError: the device isn't ready in time; the text tells why.
        OSError: it can't be opened for a reason that waiting won't change, such as missing permission.
    """
    if mode not in ("wb", "rb"):
        raise ValueError(f"mode must be 'wb' or 'rb', not {mode!r}")
    logger = logger or logging.getLogger(__name__)
    thread = _Thread()
    reason = "it could not be opened"
    with anyio.move_on_after(timeout):
        while True:
            try:
                if await thread.run_abandonable(_probe, storage_device, mode) > 0:
                    logger.debug("storage device %s is ready", storage_device)
                    return storage_device
                reason = "it has no medium (its size is 0)"
            except OSError as error:
                if error.errno not in _NOT_READY:
                    raise
                reason = error.strerror or str(error)
            logger.debug("storage device %s is not ready: %s", storage_device, reason)
            await anyio.sleep(RETRY_PAUSE)
    raise TimeoutError(f"storage device {storage_device} is not ready after {timeout:g} s: {reason}")


def _probe(device: Device, mode: str) -> int:
    if mode == "wb":
        os.close(os.open(device, os.O_WRONLY | os.O_CLOEXEC))
    return _size(device)


async def write_to_storage_device(
    storage_device: Device,
    resource: Any,
    timeout: float = 10,
    fsync_timeout: float = 900,
    leeway: float = 6,
    *,
    logger: logging.Logger | None = None,
) -> None:
    """Write all that `resource` yields to a device, from its beginning.

    Args:
        storage_device: path of the device.
        resource: stream to receive from, until its end.
        timeout: seconds to wait for the device.
        fsync_timeout: seconds that the device has to store everything in the end.
        leeway: seconds to wait afterwards, because some cards say that they are done too early.
        logger: where to tell about it.

    Raises:
        TimeoutError: the device isn't ready, or not done, in time.
        OSError: writing failed; the text tells where.
    """
    logger = logger or logging.getLogger(__name__)
    await wait_for_storage_device(storage_device, "wb", timeout, logger=logger)
    thread = _Thread()
    descriptor = await thread.run(os.open, storage_device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        total = await _write_all(_Writer(storage_device, descriptor, logger), resource, thread)
        await _sync(storage_device, descriptor, fsync_timeout, thread)
    finally:
        # A thread of its own: the other one may hang in a sync that was given up, and closing may hang as well.
        with anyio.move_on_after(RETRY_PAUSE, shield=True):
            await _Thread().run_abandonable(os.close, descriptor)
    logger.info("%s written to %s", _mebibytes(total), storage_device)
    await anyio.sleep(leeway)


async def _write_all(writer: _Writer, resource: Any, thread: _Thread) -> int:
    """Gather the chunks to blocks and write these; return the number of bytes."""
    block = bytearray()
    while True:
        try:
            block += await resource.receive()
        except EndOfStream:
            break
        if len(block) >= BLOCK_SIZE:
            whole = len(block) - len(block) % BLOCK_SIZE
            await thread.run(writer.write, block[:whole])
            del block[:whole]
    if block:
        await thread.run(writer.write, block)
    return writer.written


class _Writer:
    """Writes blocks one after the other; runs in a thread."""

    def __init__(self, device: Device, descriptor: int, logger: logging.Logger) -> None:
        self.written = 0
        self._device = device
        self._descriptor = descriptor
        self._logger = logger
        self._synced = self._logged = 0

    def write(self, block: bytearray) -> None:
        with memoryview(block) as view:
            done = 0
            while done < len(view):
                try:
                    done += os.write(self._descriptor, view[done:])
                except OSError as error:
                    where = f"{self._device} at byte {self.written + done}"
                    raise OSError(error.errno, f"can't write to {where}: {error.strerror}") from error
        self.written += done
        if self.written - self._synced >= SYNC_INTERVAL:
            self._synced = self.written
            self._write_out()
        if self.written - self._logged >= LOG_INTERVAL:
            self._logged = self.written
            self._logger.info("%s written to %s", _mebibytes(self.written), self._device)

    def _write_out(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise not_stored(self._device, error) from error


def not_stored(device: Device, error: OSError) -> OSError:
    """Return the error for a sync that failed.

    It is final: Linux drops what it could not write, and the next sync of the same file succeeds all the same
    (fsync(2), "errors").
    """
    return OSError(
        error.errno, f"can't sync {device}: {error.strerror}; what was written may be lost, so write it again"
    )


async def _sync(device: Device, descriptor: int, timeout: float, thread: _Thread) -> None:
    """Wait until the device has stored everything."""
    with anyio.move_on_after(timeout):
        try:
            await thread.run_abandonable(_fsync, descriptor)
        except OSError as error:
            raise not_stored(device, error) from error
        return
    raise TimeoutError(f"storage device {device} has not stored everything after {timeout:g} s")


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Pipes and character devices have nothing to store (fsync(2)).
        if error.errno != errno.EINVAL or stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise


async def read_from_storage_device(
    storage_device: Device,
    resource: Any,
    timeout: float = 10,
    *,
    logger: logging.Logger | None = None,
) -> None:
    """Send the whole content of a device to `resource`, without an end of the stream.

    Args:
        storage_device: path of the device.
        resource: stream to send to.
        timeout: seconds to wait for the device.
        logger: where to tell about it.

    Raises:
        TimeoutError: the device isn't ready in time.
        OSError: reading failed; the text tells where.
    """
    logger = logger or logging.getLogger(__name__)
    await wait_for_storage_device(storage_device, "rb", timeout, logger=logger)
    thread = _Thread()
    descriptor = await thread.run(os.open, storage_device, os.O_RDONLY | os.O_CLOEXEC)
    total = logged = 0
    started = time.monotonic()
    try:
        while True:
            try:
                chunk = await thread.run(os.read, descriptor, READ_SIZE)
            except OSError as error:
                message = f"can't read {storage_device} at byte {total}: {error.strerror}"
                raise OSError(error.errno, message) from error
            if not chunk:
                break
            await resource.send(chunk)
            total += len(chunk)
            if total - logged >= LOG_INTERVAL:
                logged = total
                logger.info("%s read from %s", _mebibytes(total), storage_device)
    finally:
        with anyio.CancelScope(shield=True):
            await thread.run(os.close, descriptor)
    logger.info("%s read from %s in %.1f s", _mebibytes(total), storage_device, time.monotonic() - started)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
