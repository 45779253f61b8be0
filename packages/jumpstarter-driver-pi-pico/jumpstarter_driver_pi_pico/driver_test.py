"""Flashing UF2 images onto a board whose drive is mounted on this machine, as an automounter does it."""

from __future__ import annotations

import os
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export
from jumpstarter_driver_composite.driver import Composite, Proxy
from jumpstarter_driver_opendal import volumes
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_testbench import readme
from jumpstarter_testbench.board_drives import LoopPlug, Uf2Board, uf2

from jumpstarter_driver_pi_pico.client import PiPicoClient
from jumpstarter_driver_pi_pico.driver import PiPicoFlasher

FIRMWARE = os.urandom(200_000)
NAME = "JMP-PICO"
"""The label of the drive; no other one on this machine is called so."""


@pytest.fixture(autouse=True)
def other_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take drives with ext2 too, as not every kernel has FAT; hardware_test.py uses that."""
    monkeypatch.setattr(volumes, "FAT", (*volumes.FAT, "ext2"))


@pytest.fixture
def board(tmp_path: Path) -> Uf2Board:
    """A board that isn't plugged in yet."""
    return Uf2Board(plug=LoopPlug(tmp_path), label=NAME)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image for the board."""
    path = tmp_path / "blink.uf2"
    path.write_bytes(uf2(FIRMWARE))
    return path


@contextmanager
def flasher(**config: Any) -> Iterator[PiPicoClient]:
    with serve(PiPicoFlasher(volume_name=NAME, **config)) as client:
        yield client


def test_image_reaches_the_flash_and_the_board_has_restarted(board: Uf2Board, image: Path) -> None:
    with board, flasher() as client:
        client.flash(image)

        assert board.started.wait(30)
    assert board.flash[: len(FIRMWARE)] == FIRMWARE


def test_boot_loader_tells_of_itself(board: Uf2Board) -> None:
    with board, flasher() as client:
        info = client.bootloader_info()
        printed = CliRunner().invoke(client.cli(), ["bootloader-info"])

    assert (info["Model"], info["Board-ID"]) == ("Raspberry Pi RP2", "RPI-RP2")
    assert NAME in info["Volume"]
    assert '"Board-ID": "RPI-RP2"' in printed.output


def test_image_for_another_processor_is_refused_before_anything_is_written(board: Uf2Board, image: Path) -> None:
    image.write_bytes(uf2(FIRMWARE, 0xE48BFF59))

    with board, flasher() as client:
        with pytest.raises(DriverInvalidArgument, match="RP2350 Arm, but the board is 'RPI-RP2'"):
            client.flash(image)
        assert {path.name for path in board.plug.mount_point.iterdir()} == {"INDEX.HTM", "INFO_UF2.TXT", "lost+found"}


def test_file_that_is_no_image_is_refused_without_looking_for_a_board(image: Path) -> None:
    image.write_bytes(b"\x7fELF" + bytes(1000))

    with flasher() as client, pytest.raises(DriverInvalidArgument, match="it is an ELF file"):
        client.flash(image)


def test_image_that_does_not_fit_is_refused(board: Uf2Board, image: Path) -> None:
    board.size = 1 << 20
    image.write_bytes(uf2(bytes(1 << 20)))

    with board, flasher() as client, pytest.raises(DriverError, match=r"has room for \d+ only; nothing was written"):
        client.flash(image)


def test_drive_that_is_read_only_is_told(board: Uf2Board, image: Path) -> None:
    board.plug.options = "ro"

    with board, flasher() as client, pytest.raises(DriverError, match="is read-only; nothing was written"):
        client.flash(image)


def test_board_that_does_not_restart_is_an_error(board: Uf2Board, image: Path) -> None:
    board.deaf = True

    with (
        board,
        flasher(restart_seconds=0.3) as client,
        pytest.raises(DriverError, match=r"still in its boot loader after 0\.3 s"),
    ):
        client.flash(image)


def test_missing_board_without_a_way_to_the_boot_loader_is_told_what_to_do(image: Path) -> None:
    with flasher() as client, pytest.raises(DriverMethodNotImplemented, match="Hold BOOTSEL while plugging it in"):
        client.flash(image)


def test_two_drives_that_look_alike_are_told_apart_by_device(tmp_path: Path, image: Path) -> None:
    boards = [Uf2Board(plug=LoopPlug(folder), label=NAME) for folder in (tmp_path / "a", tmp_path / "b")]
    with boards[0], boards[1], flasher() as client:
        with pytest.raises(DriverError, match="there are 2 drives that may be"):
            client.flash(image)
        with flasher(device=boards[1].plug.device) as chosen:
            chosen.flash(image)
        assert boards[1].started.wait(30)
        assert not boards[0].blocks


def test_name_on_the_drive_can_be_chosen_but_is_no_path(board: Uf2Board, image: Path) -> None:
    with flasher() as client:
        for bad in ("../x.uf2", "x.bin", "a/b.uf2", ".uf2"):
            with pytest.raises(DriverInvalidArgument, match="target is the name of the file on the drive"):
                client.flash(image, target=bad)
    board.deaf = True
    with board, flasher(restart_seconds=0) as client:
        with pytest.raises(DriverError):
            client.flash(image, target="Some long name.uf2")
        assert (board.plug.mount_point / "Some long name.uf2").read_bytes() == image.read_bytes()


def test_dump_is_not_implemented(tmp_path: Path) -> None:
    with flasher() as client, pytest.raises(DriverMethodNotImplemented, match="debug probe"):
        client.dump(tmp_path / "out")


@dataclass(kw_only=True)
class Line(Driver):
    """An output that notes what becomes of it."""

    pin: str
    events: list[str]
    pressed: dict[str, bool] = field(default_factory=dict)
    board: Uf2Board | None = None
    broken: bool = False

    @classmethod
    def client(cls) -> str:
        return "jumpstarter_driver_power.client.PowerClient"

    @export
    async def on(self) -> None:
        if self.broken:
            raise OSError("the GPIO chip is gone")
        self.events.append(f"{self.pin} on")
        self.pressed[self.pin] = True

    @export
    def off(self) -> None:
        self.events.append(f"{self.pin} off")
        was_reset, self.pressed[self.pin] = self.pressed.get(self.pin), False
        # The boot ROM looks at BOOTSEL when RUN is let go.
        if self.pin == "run" and was_reset and self.pressed.get("bootsel") and self.board is not None:
            board, self.board = self.board, None
            board.__enter__()


def lines(board: Uf2Board | None = None) -> tuple[dict[str, Driver], list[str]]:
    events: list[str] = []
    pressed: dict[str, bool] = {}
    children: dict[str, Driver] = {
        name: Line(pin=name, events=events, pressed=pressed, board=board) for name in ("bootsel", "run")
    }
    return children, events


def test_buttons_bring_the_board_into_its_boot_loader(board: Uf2Board, image: Path) -> None:
    children, events = lines(board)
    with flasher(children=children, gpio_reset_hold_seconds=0.01, bootloader_wait_seconds=30) as client:
        try:
            client.flash(image)
            assert board.started.wait(30)
        finally:
            board.__exit__(None, None, None)

    assert events[:5] == ["bootsel on", "run on", "run off", "run off", "bootsel off"]


def test_buttons_are_let_go_when_the_reset_fails() -> None:
    children, events = lines()

    children["run"].broken = True  # type: ignore[attr-defined]
    with flasher(children=children) as client, pytest.raises(DriverError, match="the GPIO chip is gone"):
        client.enter_bootloader()

    assert events == ["bootsel on", "run off", "bootsel off"]


def test_board_that_ignores_the_buttons_is_an_error() -> None:
    children, _ = lines()

    with (
        flasher(children=children, bootloader_wait_seconds=0.2) as client,
        pytest.raises(DriverError, match=r"did not show its boot loader within 0\.2 s"),
    ):
        client.enter_bootloader()


class SerialFirmware:
    """Firmware with a serial port (a pseudo-terminal), which goes to the boot loader when it is set to 1200 baud."""

    def __init__(self, board: Uf2Board) -> None:
        self._board = board
        self._master, self._slave = os.openpty()
        self.url = os.ttyname(self._slave)
        self._stop = threading.Event()
        self.touched = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SerialFirmware:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(30)
        os.close(self._master)
        os.close(self._slave)
        if self.touched.is_set():
            self._board.__exit__(None, None, None)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            if termios.tcgetattr(self._slave)[4] == termios.B1200:
                self._board.__enter__()
                self.touched.set()
                return


def test_opening_the_serial_port_at_1200_baud_brings_the_board_into_its_boot_loader(
    board: Uf2Board, image: Path
) -> None:
    with SerialFirmware(board) as firmware:
        serial = PySerial(url=firmware.url)
        with flasher(children={"serial": serial}, bootloader_wait_seconds=30) as client:
            client.flash(image)
            assert board.started.wait(30)

    assert firmware.touched.is_set()


def test_serial_port_that_is_missing_is_told() -> None:
    serial = PySerial(url="/dev/does-not-exist", check_present=False)

    with (
        flasher(children={"serial": serial}) as client,
        pytest.raises(DriverError, match=r"/dev/does-not-exist can't be opened .*there is no such device"),
    ):
        client.enter_bootloader()


def test_board_that_is_in_its_boot_loader_is_left_there(board: Uf2Board) -> None:
    children, events = lines()

    with board, flasher(children=children) as client:
        assert CliRunner().invoke(client.cli(), ["enter-bootloader"]).exit_code == 0

    assert events == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bootloader_wait_seconds": -1}, "bootloader_wait_seconds must be"),
        ({"restart_seconds": float("inf")}, "restart_seconds must be"),
        ({"bootloader_touch_baudrate": 0}, "bootloader_touch_baudrate must be"),
        ({"serial_number": 123}, "put it into quotes"),
        ({"max_size": "lots"}, "max_size must be"),
        ({"children": {"run": PySerial(url="loop://")}}, "work together; give both"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PiPicoFlasher(**config)


def test_configs_of_the_readme_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    instances = readme.exports(__file__)

    assert set(instances) == {"pico", "pico_with_buttons", "console"}
    assert isinstance(instances["pico"].instantiate(), PiPicoFlasher)
    # The lines of its children are those of a board that isn't there.
    buttons = instances["pico_with_buttons"].root
    assert set(buttons.children) == {"bootsel", "run"}
    assert isinstance(PiPicoFlasher(**buttons.config), PiPicoFlasher)


def test_serial_port_of_the_board_is_a_child_of_its_client_and_may_be_shown_at_two_places(
    board: Uf2Board, image: Path
) -> None:
    with SerialFirmware(board) as firmware:
        root = Composite(
            children={
                "console": PySerial(url=firmware.url),
                "pico": PiPicoFlasher(
                    volume_name=NAME, bootloader_wait_seconds=30, children={"serial": Proxy(ref="console")}
                ),
            }
        )
        with serve(root) as client:
            with client.pico.serial.stream():  # a console that is open is not in the way
                client.pico.flash(image)
            assert set(client.pico.cli().commands) >= {"flash", "dump", "bootloader-info", "enter-bootloader", "serial"}
            assert board.started.wait(30)
