"""Flashing boards with a UF2 boot loader, above all the Raspberry Pi Pico, by copying an image to their drive."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.common import parse_size
from jumpstarter_driver_opendal.driver import FlasherInterface, store
from jumpstarter_driver_opendal.transfer import finish
from jumpstarter_driver_opendal.volumes import (
    Drive,
    OpenVolume,
    Volume,
    VolumeError,
    VolumeMissing,
    copy_image,
    find_volume,
    open_volume,
    wait_for_volume,
    wait_until_gone,
)

from .bootsel import BootloaderError, press_buttons, touch
from .uf2 import BOARD_FAMILIES, check, parse_info, select

__all__ = ["BootloaderError", "PiPicoFlasher"]

INFO: Final = "INFO_UF2.TXT"
MARKERS: Final = (INFO, "INDEX.HTM")
RASPBERRY_PI: Final = 0x2E8A
"""USB vendor of the boot ROMs."""

DEFAULT_NAME: Final = "firmware.uf2"
FIRST_LOOK: Final = 0.5
"""Seconds that a drive which is there already may take to be found."""


@dataclass(kw_only=True)
class PiPicoFlasher(FlasherInterface, Driver):
    """A board that takes UF2 images on a USB drive.

    Children, both ways optional: `bootsel` and `run`, GPIO outputs at the pins of these names; `serial`, the serial
    port of the running firmware.
    """

    driver_type: ClassVar[str] = "storage"
    system_requirements: ClassVar[dict[str, str]] = {
        "mount": "apt-get install mount",
        "umount": "apt-get install mount",
    }

    bootloader_touch_baudrate: int = 1200
    """Speed that makes the firmware go to the boot loader when its serial port is opened."""
    bootloader_wait_seconds: float = 5
    """Seconds that the drive may take to appear."""
    gpio_reset_hold_seconds: float = 0.1
    """Seconds that RUN is held."""
    restart_seconds: float = 10
    """Seconds that the board may take to restart when it has the image."""
    serial_number: str | None = None
    """Serial number of the USB device in boot loader mode. All RP2040 have the same one."""
    usb_port: str | None = None
    """USB port as in /sys/bus/usb/devices, such as `1-1.4`."""
    device: str | None = None
    """Device file of the drive."""
    volume_name: str | None = None
    """Label of the drive, or name of the directory that it is mounted on."""
    max_size: int | str = "64MiB"
    """Most bytes of an image."""

    _drive: Drive = field(init=False, repr=False)
    _busy: anyio.Lock = field(init=False, repr=False, default_factory=anyio.Lock)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bootloader_wait_seconds", "gpio_reset_hold_seconds", "restart_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
                raise ConfigurationError(f"PiPicoFlasher: {name} must be a number of seconds, not {value!r}")
        baudrate = self.bootloader_touch_baudrate
        if isinstance(baudrate, bool) or not isinstance(baudrate, int) or baudrate <= 0:
            raise ConfigurationError(f"PiPicoFlasher: bootloader_touch_baudrate must be above 0, not {baudrate!r}")
        for name in ("serial_number", "usb_port", "device", "volume_name"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise ConfigurationError(f"PiPicoFlasher: {name} must be text (put it into quotes), not {text!r}")
        if ("bootsel" in self.children) != ("run" in self.children):
            raise ConfigurationError("PiPicoFlasher: the children 'bootsel' and 'run' work together; give both")
        try:
            self.max_size = parse_size(self.max_size, "max_size")
        except ValueError as error:
            raise ConfigurationError(f"PiPicoFlasher: {error}") from None
        self._drive = Drive(
            what="the drive of the UF2 boot loader",
            markers=MARKERS,
            name=self.volume_name,
            serial_number=self.serial_number,
            usb_port=self.usb_port,
            device=self.device,
            vendors=(RASPBERRY_PI,),
        )

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_pi_pico.client.PiPicoClient"

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        """Program a UF2 image; returns when the board has taken it and restarted.

        The image is looked at first: what is no UF2 image, incomplete, or for another processor is refused before
        anything is written. The board is brought into its boot loader if it isn't there.

        Args:
            source: the image.
            target: its name on the drive; `firmware.uf2` unless given.

        Raises:
            Uf2Error: the image is not for the board; nothing was written.
            VolumeError: the drive is missing, ambiguous, too small or went away.
            NotImplementedError: the board isn't in its boot loader, and no child can bring it there.
            TimeoutError: the board did not restart.
        """
        name = _file_name(target)
        directory = await to_thread.run_sync(OwnedDirectory, "jumpstarter-uf2-")
        try:
            image = directory.path / "image"
            async with self.resource(source) as stream:
                await store(stream, image, parse_size(self.max_size, "max_size"))
            await to_thread.run_sync(check, image)
            async with self._busy:
                volume = await self._bootloader()
                await copy_image(volume, self._drive, name, lambda opened: _for_board(opened, image), self.logger)
                await self._confirm_restart(volume)
        finally:
            await finish(directory.close)

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Raises: NotImplementedError: UF2 boot loaders don't give images back."""
        raise NotImplementedError("a UF2 boot loader can't read the flash back; use a debug probe")

    @export
    async def bootloader_info(self) -> dict[str, str]:
        """Return what the board in its boot loader tells of itself: `Model`, `Board-ID`, `Bootloader`, and its drive.

        Raises:
            VolumeError: the board isn't in its boot loader, or there are several.
        """
        async with self._busy:
            return await to_thread.run_sync(self._info)

    @export
    async def enter_bootloader(self) -> None:
        """Bring the board into its boot loader; nothing happens if it is there.

        Raises:
            NotImplementedError: no child can do that.
            BootloaderError: the serial port can't be opened.
            VolumeMissing: the drive did not appear.
        """
        async with self._busy:
            await self._bootloader()

    async def _bootloader(self) -> Volume:
        """The drive of the board, which is brought into its boot loader if need be."""
        try:
            return await to_thread.run_sync(find_volume, self._drive)
        except VolumeMissing:
            await self._send_to_bootloader()
        try:
            return await wait_for_volume(self._drive, self.bootloader_wait_seconds)
        except VolumeMissing as error:
            raise VolumeMissing(
                f"the board did not show its boot loader within {self.bootloader_wait_seconds:g} s "
                f"(bootloader_wait_seconds): {error}"
            ) from error

    async def _send_to_bootloader(self) -> None:
        if "bootsel" in self.children:
            self.logger.info("pressing BOOTSEL and resetting the board")
            await press_buttons(self.children["bootsel"], self.children["run"], self.gpio_reset_hold_seconds)
            return
        url = getattr(self.children.get("serial"), "url", None)
        if url is None:
            raise NotImplementedError(
                "the board is not in its boot loader, and the config has no way to bring it there. Hold BOOTSEL while "
                "plugging it in, or add the children 'bootsel' and 'run' (GPIO outputs) or 'serial' (its serial port)"
            )
        self.logger.info("opening %s at %d baud", url, self.bootloader_touch_baudrate)
        await to_thread.run_sync(touch, url, self.bootloader_touch_baudrate)

    async def _confirm_restart(self, volume: Volume) -> None:
        if await wait_until_gone(volume, self.restart_seconds):
            self.logger.info("the board has restarted")
            return
        raise TimeoutError(
            f"the board has the image, but is still in its boot loader after {self.restart_seconds:g} s "
            f"(restart_seconds; {volume}). Check that the image is for this board"
        )

    def _info(self) -> dict[str, str]:
        volume = find_volume(self._drive)
        with open_volume(volume, self._drive) as opened:
            return _info_of(opened) | {"Volume": str(volume)}


def _info_of(opened: OpenVolume) -> dict[str, str]:
    try:
        return parse_info(opened.read_text(INFO) or "")
    except OSError as error:
        raise VolumeError(f"{INFO} of {opened.volume} can't be read: {error.strerror}") from error


def _for_board(opened: OpenVolume, image: Path) -> Path:
    """The blocks of an image that the board takes; all when it is of a kind that isn't known here."""
    board = _info_of(opened).get("Board-ID", "")
    families = BOARD_FAMILIES.get(board)
    return image if families is None else select(image, image.with_name("selected"), families, board)


def _file_name(target: str | None) -> str:
    name = target or DEFAULT_NAME
    if not name.lower().endswith(".uf2") or name.startswith(".") or any(c in '/\\:*?"<>|' or c < " " for c in name):
        raise ValueError(f"target is the name of the file on the drive, such as {DEFAULT_NAME}, not {target!r}")
    return name
