"""An SD card that the SDWire connects either to the exporter or to the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jumpstarter.common.medium import Disk, WrongMedium
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.medium_mux import MediumMux, Side

from .mux import DUT, HOST, Mux, opened, side

__all__ = ["SDWire"]


@dataclass(kw_only=True)
class SDWire(MediumMux, Driver):
    """An SDWire and the card in it.

    Raises:
        ValueError: a setting is wrong.
        FileNotFoundError: no such mux is plugged in.
        RuntimeError: several are plugged in, and `serial` doesn't say which one is meant.
    """

    serial: str | None = None
    """Serial number, such as sdw-00001; None for the only one."""
    storage_device: str | None = None
    """Block device of the card; None to take the reader in the SDWire itself. A file or loop device stands in."""
    storage_timeout: float = 10
    """Seconds to wait for the card."""
    storage_leeway: float = 6
    """Seconds to wait after writing, as some cards say that they are done too early."""
    storage_fsync_timeout: float = 900
    """Seconds until the card must have stored everything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_config()
        with opened(self.serial) as mux:
            if self.serial is None:
                # Another one that is plugged in later must not take its place.
                self.serial = mux.device.serial
                self.logger.info("using %s, the only one", mux)

    def _check_config(self) -> None:
        for name in ("serial", "storage_device"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name} must be a text, not {value!r}; put it in quotes")
        for name in ("storage_timeout", "storage_leeway", "storage_fsync_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number of seconds, not {value!r}")

    @export
    def query(self) -> str:
        """Return what the card is connected to, as the mux says: `host` or `dut`.

        Raises:
            OSError: the mux can't be reached.
        """
        with opened(self.serial) as mux:
            return side(mux.position())

    def select(self, mask: int) -> None:
        """Connect the card: 0xF1 to the exporter, 0xF0 to the device. Blocks.

        Raises:
            RuntimeError: the mux says that it did not.
            OSError: it can't be reached.
        """
        with opened(self.serial) as mux:
            mux.move(mask)

    def effective_storage_device(self) -> str:
        """Return the path of the card's block device. Blocks.

        Raises:
            FileNotFoundError: there is none at the moment.
        """
        path = self.find_medium()
        if path is None:
            raise FileNotFoundError(
                f"no block device belongs to SDWire {self.serial} at the moment. Check that a card is in it, and that "
                "it is connected to the exporter ('j ... host')"
            )
        return str(path)

    def switch_medium(self, side: Side) -> None:
        """Connect the card, and return when the mux says that it is. Off is the exporter, as the SDWire has no such
        position.
        """
        self.select(DUT if side is Side.DUT else HOST)

    def find_medium(self) -> Path | None:
        """Return the path of the card, None when it is not there."""
        if self.storage_device is not None:
            path = Path(self.storage_device)
            return path if path.exists() else None
        with opened(self.serial) as mux:
            disk = mux.reader()
            return disk.node if disk else None

    def check_medium(self, disk: Disk | None) -> None:
        """Make sure that a disk is the reader of this mux, and that the card is connected to it."""
        with opened(self.serial) as mux:
            self._check_reader(mux, disk)
            if mux.position() != HOST:
                raise WrongMedium(f"{mux} has the card connected to the device; somebody else switched it")

    def _check_reader(self, mux: Mux, disk: Disk | None) -> None:
        if disk is None and self.storage_device is not None:
            return  # a file or a loop device, which the configuration names
        readers = mux.readers()
        if disk not in readers:
            found = ", ".join(map(str, readers)) or "no disk"
            raise WrongMedium(
                f"{disk} does not belong to {mux}, behind whose hub there is {found}; it is not touched. Remove "
                "storage_device from the config to have it found, or plug the SDWire in again"
            )
