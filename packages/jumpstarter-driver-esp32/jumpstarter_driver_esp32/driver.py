"""The ESP32 driver: flash, read and reset chips of Espressif over their serial port."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.driver import FlasherInterface, fetch, store
from jumpstarter_driver_opendal.transfer import finish, interruptible

from . import loader
from .loader import CHIPS, Esp32Error, Loader

__all__ = ["Esp32Error", "Esp32Flasher"]

MAX_FLASH: Final = 128 << 20
"""Bytes of the largest flash chip."""

DEFAULT_DUMP: Final = "0x0:0x400000"
"""What is read unless told: the 4 MiB that most modules have."""


@dataclass(kw_only=True)
class Esp32Flasher(FlasherInterface, Driver):
    """A chip of Espressif on the serial port that is the child `serial`.

    Raises:
        ConfigurationError: the child is missing, or a setting can't be used.
    """

    driver_type: ClassVar[str] = "storage"

    baudrate: int = 115200
    """Speed of transfers; the first contact is at 115200."""
    chip: str = "esp32"
    """Which chip it must be, such as `esp32s3`; `auto` for any."""
    stub: bool = True
    """Load esptool's stub into the chip, which is faster than the ROM and can erase the whole flash."""
    before: str = "default-reset"
    """How the chip gets into its loader: `default-reset`, `usb-reset`, or `no-reset` if it is there already."""
    connect_attempts: int = 7
    timeout: float = 900.0
    """Seconds that an operation may take."""

    _loader: Loader = field(init=False, repr=False)
    _busy: anyio.Lock = field(init=False, repr=False, default_factory=anyio.Lock)
    _stop: threading.Event | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "serial" not in self.children:
            raise ConfigurationError(
                "Esp32Flasher needs a child 'serial': a PySerial driver, or 'ref' to one, at the chip's port"
            )
        name = self.chip.lower().replace("-", "") if isinstance(self.chip, str) else self.chip
        if name not in CHIPS:
            raise ConfigurationError(f"Esp32Flasher: chip must be one of {', '.join(sorted(CHIPS))}, not {self.chip!r}")
        for key in ("baudrate", "connect_attempts"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ConfigurationError(f"Esp32Flasher: {key} must be a whole number above 0, not {value!r}")
        if self.before not in ("default-reset", "usb-reset", "no-reset"):
            raise ConfigurationError(
                f"Esp32Flasher: before must be default-reset, usb-reset or no-reset, not {self.before!r}"
            )
        limit = self.timeout
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not isfinite(limit) or limit <= 0:
            raise ConfigurationError(f"Esp32Flasher: timeout must be a number of seconds above 0, not {limit!r}")
        self._loader = Loader(
            chip=name,
            baudrate=self.baudrate,
            stub=bool(self.stub),
            before=self.before,
            attempts=self.connect_attempts,
            timeout=limit,
            logger=self.logger,
        )

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_esp32.client.Esp32FlasherClient"

    def close(self) -> None:
        """End what runs."""
        try:
            if self._stop is not None:
                self._stop.set()
        finally:
            super().close()

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        """Write an image to the flash, compare it, and start the firmware.

        Args:
            source: the image.
            target: its address, such as `0x10000`; 0 unless given.

        Raises:
            ValueError: the address can't be one, or the image is empty; nothing was written.
            Esp32Error: it failed; the message has what esptool said.
        """
        address = _number(target or "0", "the target of an image is its address in flash")
        directory = await to_thread.run_sync(OwnedDirectory, "jumpstarter-esp32-")
        try:
            image = directory.path / "image"
            async with self.resource(source) as stream:
                size = await store(stream, image, MAX_FLASH)
            if size == 0:
                raise ValueError("the image is empty")
            if address + size > MAX_FLASH:
                raise ValueError(f"an image of {size} bytes at {address:#x} doesn't fit into any flash chip")
            self.logger.info("flashing %d bytes at %#x", size, address)
            await self._operate("flash", address=address, path=str(image))
        finally:
            await finish(directory.close)

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Read a part of the flash.

        Args:
            target: where the bytes go.
            partition: `ADDRESS:SIZE`; the first 4 MiB unless given.

        Raises:
            ValueError: the part can't be one.
            Esp32Error: it failed; the message has what esptool said.
        """
        what = f"a part of the flash is ADDRESS:SIZE, such as {DEFAULT_DUMP}"
        start, _, length = (partition or DEFAULT_DUMP).partition(":")
        address, size = _number(start, what), _number(length, what)
        if not 0 < size <= MAX_FLASH - address:
            raise ValueError(f"{what}, not {partition!r}")
        directory = await to_thread.run_sync(OwnedDirectory, "jumpstarter-esp32-")
        try:
            path = directory.path / "dump"
            await self._operate("dump", address=address, size=size, path=str(path))
            async with self.resource(target) as stream:
                await fetch(path, stream)
        finally:
            await finish(directory.close)

    @export
    async def get_chip_info(self) -> dict[str, Any]:
        """Return what the chip is: `chip`, `description`, `features`, `crystal`, `mac`, `flash_id`, `flash_size`.

        Raises:
            Esp32Error: it failed; the message has what esptool said.
        """
        found: dict[str, Any] = await self._operate("info")
        return found

    @export
    async def erase(self) -> None:
        """Erase all of the flash.

        Raises:
            Esp32Error: it failed; the message has what esptool said.
        """
        self.logger.info("erasing the whole flash")
        await self._operate("erase")

    @export
    async def hard_reset(self) -> None:
        """Restart the chip, which runs its firmware then; a console stays connected.

        Raises:
            NotImplementedError: the port has no modem lines.
        """
        async with self._busy:
            await to_thread.run_sync(self._on_lines, loader.hard_reset)

    @export
    async def enter_bootloader(self) -> None:
        """Restart the chip into its ROM loader; a console stays connected.

        Raises:
            NotImplementedError: the port has no modem lines.
        """
        async with self._busy:
            await to_thread.run_sync(self._on_lines, loader.enter_bootloader)

    def _on_lines(self, sequence: Callable[[Any], None]) -> None:
        lines: AbstractContextManager[Any] = self.children["serial"].lines()  # type: ignore[attr-defined]
        with lines as port:
            sequence(port)

    async def _operate(self, operation: str, **arguments: Any) -> Any:
        """Run an operation with the port to itself; a call that is cancelled ends it."""
        async with self._busy, self.children["serial"].lent() as port:  # type: ignore[attr-defined]

            def work(stop: threading.Event) -> Any:
                self._stop = stop
                try:
                    return self._loader.run(port, operation, arguments, stop)
                finally:
                    self._stop = None

            return await interruptible(work)


def _number(text: str, what: str) -> int:
    try:
        number = int(text, 0)
    except (TypeError, ValueError):
        raise ValueError(f"{what}, not {text!r}") from None
    if not 0 <= number < MAX_FLASH:
        raise ValueError(f"{what}, from 0 to {MAX_FLASH - 1:#x}, not {text!r}")
    return number
