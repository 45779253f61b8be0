"""What storage muxes with a real medium have in common: one step at a time, and never the wrong medium.

The medium is looked up when it is needed, held open exclusively from its check until everything is stored, and checked
by the mux's own answer and by the USB device that it belongs to, right before the first byte is written.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import anyio
from jumpstarter.common.medium import Disk, Medium, MediumBusy, WrongMedium, hold
from jumpstarter.common.storage import read_from_storage_device, write_to_storage_device
from jumpstarter.driver import export

from .driver import StorageMuxFlasherInterface
from .transfer import finish

if TYPE_CHECKING:
    from jumpstarter.driver import Driver

    _Base = Driver
else:
    _Base = object

__all__ = ["MediumMux", "Side"]

T = TypeVar("T")

TURN_TIMEOUT: Final = 5.0
"""Seconds that a step waits for the end of the one before, whose client may just have gone away."""

HELD_TIMEOUT: Final = 2.0
"""Seconds to wait for a medium that was there when it was opened just now, and is gone if it isn't."""

POLL_PAUSE: Final = 0.2
"""Seconds between two looks for the medium."""

_ABSENT = {errno.ENOENT, errno.ENOMEDIUM, errno.ENXIO, errno.ENODEV, errno.EIO}


class Side(StrEnum):
    """What the medium is connected to."""

    HOST = "host"
    DUT = "dut"
    OFF = "off"


class MediumMux(StorageMuxFlasherInterface, _Base):
    """Mixin of drivers that switch a medium. They bring the settings `storage_timeout` (seconds to wait for the
    medium), `storage_leeway` (seconds to wait after writing) and `storage_fsync_timeout` (seconds until it must have
    stored everything).
    """

    driver_type: ClassVar[str] = "storage"

    storage_timeout: float
    storage_leeway: float
    storage_fsync_timeout: float

    @abstractmethod
    def switch_medium(self, side: Side) -> None:
        """Connect the medium, and return when the mux says that it is. Blocks; takes seconds at most.

        Raises:
            OSError, RuntimeError: the mux can't be reached, or doesn't do it.
        """

    def prove_medium(self) -> None:
        """Do what else it takes to be sure of the medium before it is written; nobody uses it at that moment. Blocks.

        Raises:
            WrongMedium: it is another one.
        """

    @abstractmethod
    def find_medium(self) -> Path | None:
        """Return the path of the medium as it is connected to the exporter now, None when it isn't. Blocks.

        Raises:
            WrongMedium: it can't be told which one it is.
        """

    @abstractmethod
    def check_medium(self, disk: Disk | None) -> None:
        """Make sure that an open disk is the medium of this mux, connected to the exporter. Blocks.

        Args:
            disk: what is open; None for a plain file or a loop device.

        Raises:
            WrongMedium: it is another one.
            OSError: the mux can't be reached.
        """

    @export
    async def host(self) -> None:
        """Connect the medium to the exporter."""
        async with self._turn("connected to the exporter"):
            await self._switch_side(Side.HOST)

    @export
    async def dut(self) -> None:
        """Connect the medium to the device.

        Raises:
            MediumBusy: it is mounted on the exporter, or being written.
        """
        async with self._turn("connected to the device"):
            await self._switch_side(Side.DUT)

    @export
    async def off(self) -> None:
        """Disconnect the medium.

        Raises:
            MediumBusy: it is mounted on the exporter, or being written.
        """
        async with self._turn("disconnected"):
            await self._switch_side(Side.OFF)

    @export
    async def write(self, src: Any) -> None:
        """Write a resource to the medium, which is connected to the exporter for that and stays so.

        Raises:
            WrongMedium: what is there isn't the mux's medium, or is in use; nothing was written.
            TimeoutError: the medium did not become available, or not everything was stored in time.
            ConnectionError: it was unplugged.
            OSError: it is too small, or broken.
        """
        async with self._turn("written"):
            await _run(self._let_go)
            await _run(self.prove_medium)
            await self._switch_side(Side.HOST)
            path = await self._available()
            async with self.resource(src) as stream, self._held(path, writing=True) as medium:
                await write_to_storage_device(
                    medium.path,
                    stream,
                    timeout=HELD_TIMEOUT,
                    fsync_timeout=self.storage_fsync_timeout,
                    leeway=0,
                    logger=self.logger,
                )
                await _run(medium.check_stored)
                await _run(partial(self.check_medium, medium.disk))
            await anyio.sleep(self.storage_leeway)

    @export
    async def read(self, dst: Any) -> None:
        """Read the medium into a resource; it is connected to the exporter for that and stays so.

        Raises:
            WrongMedium: what is there isn't the mux's medium.
            TimeoutError: it did not become available.
            ConnectionError: it was unplugged.
            OSError: it is broken.
        """
        async with self._turn("read"):
            await self._switch_side(Side.HOST)
            path = await self._available()
            async with self.resource(dst) as stream, self._held(path, writing=False) as medium:
                await read_from_storage_device(medium.path, stream, timeout=HELD_TIMEOUT, logger=self.logger)
                await stream.send_eof()

    @asynccontextmanager
    async def _turn(self, what: str) -> AsyncGenerator[None, None]:
        """Have the mux to oneself; `what` the medium is."""
        lock, running = self._state()
        with anyio.move_on_after(TURN_TIMEOUT) as waiting:
            await lock.acquire()
        if waiting.cancelled_caught:
            raise MediumBusy(
                f"refusing to switch: the medium is busy, it is being {running[0]} for another call. "
                "Wait for the end of that, or end its client"
            )
        running[:] = [what]
        try:
            yield
        finally:
            lock.release()

    def _state(self) -> tuple[anyio.Lock, list[str]]:
        # Made on the event loop, at the first call: nothing runs beside it then.
        if "_mux_state" not in self.__dict__:
            self.__dict__["_mux_state"] = (anyio.Lock(), [""])
        state: tuple[anyio.Lock, list[str]] = self.__dict__["_mux_state"]
        return state

    async def _switch_side(self, side: Side) -> None:
        if side is not Side.HOST:
            await _run(self._let_go)
        await _run(partial(self.switch_medium, side))
        self.logger.info("medium: %s", side)

    def _let_go(self) -> None:
        """Make sure that nobody on the exporter uses the medium, and that everything is stored. Blocks.

        Raises:
            MediumBusy: somebody does.
        """
        try:
            path = self.find_medium()
            if path is None:
                return
            medium = hold(path, self.check_medium, writing=False)
        except MediumBusy as error:
            raise MediumBusy(f"refusing to switch: {error}") from error
        except WrongMedium as error:
            self.logger.debug("no medium to store before switching: %s", error)
            return
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return
        try:
            medium.check_stored()
        finally:
            medium.close()

    async def _available(self) -> Path:
        """Wait until the medium is there, and return its path."""
        path = await _run(partial(_wait, self.find_medium, self.storage_timeout))
        if path is None:
            raise TimeoutError(
                f"the medium did not become available within {self.storage_timeout:g} s, although the mux connects it "
                "to the exporter. Check that it is plugged into the mux, and the mux into the exporter; a slow one "
                "needs a longer storage_timeout"
            )
        return path

    @asynccontextmanager
    async def _held(self, path: Path, *, writing: bool) -> AsyncGenerator[Medium, None]:
        """Hold the medium, and say what became of it when using it fails."""
        medium = await _run(partial(hold, path, self.check_medium, writing=writing))
        try:
            try:
                yield medium
            except OSError as error:
                if await _run(medium.is_gone):
                    raise ConnectionError(
                        f"the medium was unplugged or disconnected while it was {'written' if writing else 'read'}"
                        f"{', and is incomplete now' if writing else ''} ({error.strerror or error}). Plug it in and "
                        "try again"
                    ) from error
                if error.errno == errno.ENOSPC:
                    raise OSError(
                        errno.ENOSPC, f"the image is larger than the medium, which is full now ({error.strerror})"
                    ) from error
                raise
        finally:
            await finish(medium.close)


def _wait(find: Callable[[], Path | None], timeout: float) -> Path | None:
    deadline = time.monotonic() + timeout
    while True:
        path = find()
        if path is not None and _is_ready(path):
            return path
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_PAUSE)


def _is_ready(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise OSError(error.errno, f"{path} can't be opened: {error.strerror}. {_permission_hint(error)}") from error
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_file or os.lseek(descriptor, 0, os.SEEK_END) > 0
    finally:
        os.close(descriptor)


def _permission_hint(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Let the exporter's user write to it: add it to the group disk, or give it the device by a udev rule"
    return "Check the medium"


async def _run(work: Callable[[], T]) -> T:
    """Run blocking work in a thread; a cancelled caller waits for its end, so that steps don't overlap."""
    results: list[T] = []
    await finish(lambda: results.append(work()))
    return results[0]
