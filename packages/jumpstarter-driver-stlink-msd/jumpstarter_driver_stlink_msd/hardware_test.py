"""A Nucleo board as Linux sees it: a FAT drive on USB that is mounted by the driver, taken away, and shown again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_driver_opendal import volumes
from jumpstarter_testbench.board_drives import GadgetPlug, StlinkBoard
from jumpstarter_testbench.usb_gadgets import modprobe

from jumpstarter_driver_stlink_msd.driver import StlinkMsdFlasher

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("fat")]

VENDOR, PRODUCT = 0x0483, 0x374B
FIRMWARE = os.urandom(200_000)


@pytest.fixture(autouse=True)
def fat() -> None:
    """Load the kernel's FAT, which the guest's mount doesn't do by itself."""
    modprobe("vfat", "nls_cp437", "nls_ascii", "nls_utf8")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Firmware for the board."""
    path = tmp_path / "blink.bin"
    path.write_bytes(FIRMWARE)
    return path


def nucleo(serial: str = "066DFF343334434257221234", changes_medium: bool = False, **options: object) -> StlinkBoard:
    plug = GadgetPlug(vendor=VENDOR, product=PRODUCT, serial=serial, changes_medium=changes_medium)
    return StlinkBoard(plug=plug, **options)


def mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "vfat" in line]


def test_board_is_programmed_or_says_why_not(image: Path) -> None:
    with serve(StlinkMsdFlasher()) as client, nucleo() as board:
        client.flash(image)
        assert board.flash == FIRMWARE

        board.failure = "The target MCU is protected"
        with pytest.raises(DriverError, match="The target MCU is protected"):
            client.flash(image)

    assert mounts() == []


def test_board_that_is_unplugged_while_it_is_written_is_an_error(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image.write_bytes(os.urandom(1_000_000))
    write = volumes._write_through

    with serve(StlinkMsdFlasher()) as client, nucleo(hangs=True) as board:

        def write_and_pull_the_cable(file: int, data: bytes) -> None:
            write(file, data)
            board.plug.close()

        monkeypatch.setattr(volumes, "_write_through", write_and_pull_the_cable)
        with pytest.raises(DriverError, match=r"went away after 262144 of 1000000 bytes .* flash again"):
            client.flash(image)

    assert mounts() == []


def test_boards_are_told_apart_by_serial_number_and_may_stay_on_the_bus_while_they_program(image: Path) -> None:
    with nucleo("A1") as left, nucleo("B2", changes_medium=True) as right:
        with serve(StlinkMsdFlasher(serial_number="B2")) as client:
            client.flash(image)

        assert (left.flash, right.flash) == (b"", FIRMWARE)
