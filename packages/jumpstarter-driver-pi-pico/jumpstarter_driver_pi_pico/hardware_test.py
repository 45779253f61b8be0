"""A Pico as Linux sees it: a USB serial port that becomes a FAT drive, is mounted by the driver, and comes back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_driver_opendal import volumes
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_testbench.board_drives import GadgetPlug, Uf2Board, uf2
from jumpstarter_testbench.usb_gadgets import Gadget, SerialPort, modprobe

from jumpstarter_driver_pi_pico.driver import PiPicoFlasher

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("fat")]

VENDOR, BOOTSEL, FIRMWARE = 0x2E8A, 0x0003, 0x000A
PROGRAM = os.urandom(100_000)
SERIAL_OF_ALL = "E0C9125B0D9B"
"""What the boot ROM of every RP2040 gives for a serial number."""


@pytest.fixture(autouse=True)
def fat() -> None:
    """Load the kernel's FAT, which the guest's mount doesn't do by itself."""
    modprobe("vfat", "nls_cp437", "nls_ascii", "nls_utf8", "usbmon")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image for the board."""
    path = tmp_path / "blink.uf2"
    path.write_bytes(uf2(PROGRAM))
    return path


def bootsel(**options: object) -> Uf2Board:
    return Uf2Board(plug=GadgetPlug(vendor=VENDOR, product=BOOTSEL, serial=SERIAL_OF_ALL), **options)


def mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "vfat" in line]


class Pico:
    """A board whose firmware goes to the boot loader when its port is set to 1200 baud, and runs again after that."""

    SET_LINE_CODING_1200 = " s 21 20 0000 0000 0007 7 = b0040000"

    def __init__(self) -> None:
        self.port = SerialPort()
        self._firmware = Gadget(vendor=VENDOR, product=FIRMWARE, functions=[self.port])
        self.board = bootsel(on_start=self._run_firmware)
        self._stop = threading.Event()
        self._monitor = os.open("/sys/kernel/debug/usb/usbmon/0u", os.O_RDONLY | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.in_bootsel = False

    def _run_firmware(self) -> None:
        self._firmware.plug()

    def _watch(self) -> None:
        seen = ""
        while not self._stop.wait(0.02):
            try:
                seen += os.read(self._monitor, 65536).decode()
            except BlockingIOError:
                continue
            if self.SET_LINE_CODING_1200 in seen:
                self._firmware.unplug()
                self.board.__enter__()
                self.in_bootsel = True
                return
            seen = seen[-200:]

    def __enter__(self) -> Pico:
        self._firmware.__enter__()
        self.tty = self._firmware.tty()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(60)
        os.close(self._monitor)
        if self.in_bootsel:
            self.board.__exit__(None, None, None)
        self._firmware.close()


@pytest.fixture
def pico() -> Iterator[Pico]:
    """A board that runs its firmware."""
    with Pico() as pico:
        yield pico


def test_running_board_is_sent_to_its_boot_loader_flashed_and_runs_again(pico: Pico, image: Path) -> None:
    serial = PySerial(url=str(pico.tty))
    driver = PiPicoFlasher(children={"serial": serial}, bootloader_wait_seconds=60, restart_seconds=60)
    with serve(driver) as client, client.serial.stream():  # a console that is open is not in the way
        client.flash(image)
        assert pico.board.started.wait(60)

    assert pico.board.flash[: len(PROGRAM)] == PROGRAM
    assert mounts() == []


def test_board_that_is_unplugged_while_it_is_written_is_an_error_and_can_be_flashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "large.uf2"
    image.write_bytes(uf2(os.urandom(300_000)))
    write = volumes._write_through
    with serve(PiPicoFlasher(restart_seconds=60)) as client:
        with bootsel(deaf=True) as board, monkeypatch.context() as patched:

            def write_and_pull_the_cable(file: int, data: bytes) -> None:
                write(file, data)
                board.plug.close()

            patched.setattr(volumes, "_write_through", write_and_pull_the_cable)
            with pytest.raises(DriverError, match=r"went away after 262144 of 600064 bytes .* flash again"):
                client.flash(image)
            assert not board.started.is_set()
        with bootsel() as board:
            client.flash(image)
            assert board.started.wait(60)

    assert mounts() == []


def test_boards_with_the_same_serial_number_are_told_apart_by_usb_port(image: Path) -> None:
    with bootsel() as left, bootsel() as right:
        with serve(PiPicoFlasher()) as client, pytest.raises(DriverError, match=r"2 drives .* 'usb_port'"):
            client.flash(image)
        assert right.plug.gadget is not None
        port = right.plug.gadget.path.name
        with serve(PiPicoFlasher(usb_port=port, serial_number=SERIAL_OF_ALL, restart_seconds=60)) as client:
            client.flash(image)

        assert right.started.wait(60)
        assert not left.blocks
