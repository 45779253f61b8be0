"""Flashing boards with an ST-LINK (Nucleo, Discovery) by copying the firmware to the drive that it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread
from jumpstarter.common.exceptions import ConfigurationError, JumpstarterException
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.common import parse_size
from jumpstarter_driver_opendal.driver import FlasherInterface, store
from jumpstarter_driver_opendal.transfer import finish
from jumpstarter_driver_opendal.volumes import (
    Drive,
    Volume,
    VolumeError,
    copy_image,
    find_volume,
    open_volume,
    wait_for_volume,
    wait_until_gone,
)

from .firmware import check, kind_of, suffix_of

__all__ = ["ProgrammingFailed", "StlinkMsdFlasher"]

DETAILS: Final = "DETAILS.TXT"
FAIL: Final = "FAIL.TXT"
MARKERS: Final = ("MBED.HTM", DETAILS)
PREFIXES: Final = ("NOD_", "NODE_", "DIS_", "NUCLEO")
"""How the labels of drives begin that have no markers."""

STMICROELECTRONICS: Final = 0x0483
"""USB vendor of ST-LINKs."""

DEFAULT_NAME: Final = "firmware"


class ProgrammingFailed(JumpstarterException, RuntimeError):
    """The ST-LINK says that it could not program the board."""


@dataclass(kw_only=True)
class StlinkMsdFlasher(FlasherInterface, Driver):
    """A board that takes `.bin` and `.hex` files on the drive of its ST-LINK."""

    driver_type: ClassVar[str] = "storage"
    system_requirements: ClassVar[dict[str, str]] = {
        "mount": "apt-get install mount",
        "umount": "apt-get install mount",
    }

    volume_name: str | None = None
    """Label of the drive, or name of the directory that it is mounted on, such as `NOD_F446RE`."""
    serial_number: str | None = None
    """Serial number of the ST-LINK."""
    usb_port: str | None = None
    """USB port as in /sys/bus/usb/devices, such as `1-1.4`."""
    device: str | None = None
    """Device file of the drive."""
    programming_seconds: float = 60
    """Seconds that the ST-LINK may take to program the board and to show its drive again."""
    max_size: int | str = "64MiB"
    """Most bytes of an image."""

    _drive: Drive = field(init=False, repr=False)
    _busy: anyio.Lock = field(init=False, repr=False, default_factory=anyio.Lock)

    def __post_init__(self) -> None:
        super().__post_init__()
        seconds = self.programming_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isfinite(seconds) or seconds <= 0:
            raise ConfigurationError(f"StlinkMsdFlasher: programming_seconds must be above 0, not {seconds!r}")
        for name in ("volume_name", "serial_number", "usb_port", "device"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text):
                raise ConfigurationError(f"StlinkMsdFlasher: {name} must be text (put it into quotes), not {text!r}")
        try:
            self.max_size = parse_size(self.max_size, "max_size")
        except ValueError as error:
            raise ConfigurationError(f"StlinkMsdFlasher: {error}") from None
        self._drive = Drive(
            what="the drive of the ST-LINK",
            markers=MARKERS,
            names=PREFIXES,
            name=self.volume_name,
            serial_number=self.serial_number,
            usb_port=self.usb_port,
            device=self.device,
            vendors=(STMICROELECTRONICS,),
        )

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_stlink_msd.client.StlinkMsdFlasherClient"

    @export
    async def flash(self, source: Any, target: str | None = None) -> None:
        """Program a file; returns when the ST-LINK has shown its drive again without a complaint.

        Args:
            source: the firmware.
            target: its name on the drive, which ends in `.bin` or `.hex`; by default one that fits the content.

        Raises:
            FirmwareError: the file is no firmware; nothing was written.
            VolumeError: the drive is missing, ambiguous, too small or went away.
            ProgrammingFailed: the ST-LINK says so in its FAIL.TXT, which is part of the message.
            TimeoutError: the ST-LINK did not restart.
        """
        suffix = suffix_of(_plain_name(target)) if target else None
        directory = await to_thread.run_sync(OwnedDirectory, "jumpstarter-stlink-")
        try:
            image = directory.path / "image"
            async with self.resource(source) as stream:
                await store(stream, image, parse_size(self.max_size, "max_size"))
            if suffix is None:
                suffix = await to_thread.run_sync(kind_of, image)
            await to_thread.run_sync(check, image, suffix)
            async with self._busy:
                volume = await to_thread.run_sync(find_volume, self._drive)
                name = target or DEFAULT_NAME + suffix
                await copy_image(volume, self._drive, name, lambda opened: image, self.logger)
                await self._confirm(volume)
        finally:
            await finish(directory.close)

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Raises: NotImplementedError: the drive doesn't give the firmware back."""
        raise NotImplementedError("the drive of an ST-LINK can't read the flash back; use a debug probe driver")

    @export
    async def info(self) -> dict[str, str]:
        """Return what DETAILS.TXT says, such as `Version` and `Build`, and the drive as `Volume`.

        Raises:
            VolumeError: the drive is missing, or there are several.
        """
        async with self._busy:
            volume = await to_thread.run_sync(find_volume, self._drive)
            text = await to_thread.run_sync(self._read, volume, DETAILS)
            return _details(text or "") | {"Volume": str(volume)}

    async def _confirm(self, volume: Volume) -> None:
        """Wait for the verdict of the ST-LINK: it takes its drive away and shows it again, with FAIL.TXT or without."""
        limit = self.programming_seconds
        if not await wait_until_gone(volume, limit):
            raise TimeoutError(
                f"the ST-LINK has the file, but did not program it within {limit:g} s (programming_seconds): its drive "
                f"({volume}) has not been shown again. Check that the file is for this board, and replug the board"
            )
        try:
            back = await wait_for_volume(self._drive, limit)
            complaint = await to_thread.run_sync(self._read, back, FAIL)
        except VolumeError as error:
            raise TimeoutError(
                f"the ST-LINK took the file, but its drive did not come back within {limit:g} s "
                f"(programming_seconds), so nothing is known of the board. {error}"
            ) from error
        if complaint is not None:
            text = " ".join(complaint.split()) or "no reason is given"
            raise ProgrammingFailed(f"the ST-LINK could not program the board: {text} ({FAIL})")
        self.logger.info("the ST-LINK has programmed the board")

    def _read(self, volume: Volume, name: str) -> str | None:
        try:
            with open_volume(volume, self._drive) as opened:
                return opened.read_text(name)
        except VolumeError:
            raise
        except OSError as error:
            raise VolumeError(f"{name} of {volume} can't be read: {error.strerror}") from error


def _details(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip().lstrip("# "): value.strip() for key, colon, value in pairs if colon}


def _plain_name(name: str) -> str:
    if name.startswith(".") or any(c in '/\\:*?"<>|' or c < " " for c in name):
        raise ValueError(f"target is the name of the file on the drive, such as {DEFAULT_NAME}.bin, not {name!r}")
    return name
