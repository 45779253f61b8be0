"""The ESP32 driver with esptool itself and a chip that speaks the protocol of the ROM loader."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_pyserial.driver import PySerial

from .conftest import BOUND, Board
from .driver import Esp32Flasher
from .loader import CHIPS

IMAGE = bytes(range(256)) * 40


@contextmanager
def client_of(board: Board, serial: dict[str, Any] | None = None, **config: Any) -> Iterator[Any]:
    port = PySerial(url=board.url, check_present=False, **(serial or {}))
    with serve(Esp32Flasher(children={"serial": port}, connect_attempts=1, **config)) as client:
        yield client


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "app.bin"
    path.write_bytes(IMAGE)
    return path


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"jumpstarter_driver_esp32.worker" in words:
                found.append(int(entry.name))
    return found


def test_an_image_is_flashed_and_started(board: Board, image: Path) -> None:
    with client_of(board) as client:
        client.flash(image, target="0x10000")
    chip = board.chip
    assert chip.flash[0x10000 : 0x10000 + len(IMAGE)] == IMAGE
    assert set(chip.flash[:0x10000]) == {0xFF}
    # by the stub, compressed, and compared
    assert {0x08, 0x06, 0x10, 0x11, 0x13} <= set(chip.commands)
    # and the firmware runs
    assert not chip.in_download


def test_the_rom_alone_flashes_too(pty_board: Board, image: Path) -> None:
    with client_of(pty_board, before="no-reset", stub=False) as client:
        client.flash(str(image))
    assert pty_board.chip.flash[: len(IMAGE)] == IMAGE
    assert {0x02, 0x03, 0x13} <= set(pty_board.chip.commands)
    assert 0x06 not in pty_board.chip.commands


def test_a_faster_speed_is_agreed_on(pty_board: Board, image: Path) -> None:
    with client_of(pty_board, before="no-reset", baudrate=460800) as client:
        client.flash(image)
    assert 0x0F in pty_board.chip.commands
    assert pty_board.chip.flash[: len(IMAGE)] == IMAGE


@pytest.mark.parametrize("stub", [True, False])
def test_the_flash_is_read(pty_board: Board, tmp_path: Path, stub: bool) -> None:
    content = os.urandom(0x1800)
    pty_board.chip.flash[0x9000 : 0x9000 + len(content)] = content
    with client_of(pty_board, before="no-reset", stub=stub) as client:
        client.dump(tmp_path / "dump.bin", partition=f"0x9000:{0x1800:#x}")
    assert (tmp_path / "dump.bin").read_bytes() == content


def test_the_flash_is_erased(pty_board: Board) -> None:
    pty_board.chip.flash[:4] = b"data"
    with client_of(pty_board, before="no-reset") as client:
        client.erase()
    assert set(pty_board.chip.flash) == {0xFF}


def test_a_chip_tells_what_it_is(pty_board: Board) -> None:
    with client_of(pty_board, before="no-reset", chip="auto") as client:
        info = client.get_chip_info()
    assert info["chip"] == "ESP32"
    assert info["mac"] == "24:6f:28:a1:b2:c3"
    assert info["flash_size"] == "4MB"
    assert info["flash_id"] == "1640ef"
    assert "Wi-Fi" in info["features"]
    assert info["crystal"] == "40 MHz"


def test_a_port_without_modem_lines_works_when_the_chip_is_in_its_loader(pty_board: Board, image: Path) -> None:
    with client_of(pty_board, before="no-reset") as client:
        client.flash(image, target="0x1000")
        with pytest.raises(DriverMethodNotImplemented, match="no modem lines"):
            client.hard_reset()
    assert pty_board.chip.flash[0x1000 : 0x1000 + len(IMAGE)] == IMAGE


def test_the_lines_bring_the_chip_into_its_modes(board: Board) -> None:
    with client_of(board) as client:
        client.enter_bootloader()
        assert board.chip.in_download
        client.hard_reset()
        assert not board.chip.in_download
    # DTR and RTS as the circuit of the development boards wants them
    assert (False, True) in board.chip.line_changes
    assert (True, False) in board.chip.line_changes


def test_a_console_shows_the_reset_and_stays(board: Board) -> None:
    with client_of(board) as client, client.serial.pexpect() as console:
        client.hard_reset()
        console.expect_exact("SPI_FAST_FLASH_BOOT", timeout=BOUND)
        client.enter_bootloader()
        console.expect_exact("waiting for download", timeout=BOUND)


def test_the_console_gives_the_port_up_for_flashing(board: Board, image: Path) -> None:
    with client_of(board, serial={"backlog": 10000}) as client:
        with client.serial.pexpect():
            client.flash(image)
        assert board.chip.flash[: len(IMAGE)] == IMAGE
        # and afterwards there is a console again
        with client.serial.pexpect() as console:
            client.hard_reset()
            console.expect_exact("SPI_FAST_FLASH_BOOT", timeout=BOUND)


def test_a_chip_of_another_kind_is_not_touched(pty_board: Board, image: Path) -> None:
    wrong = pytest.raises(DriverError, match="This chip is ESP32, not ESP32-S3")
    with client_of(pty_board, before="no-reset", chip="esp32s3") as client, wrong:
        client.flash(image)
    assert set(pty_board.chip.flash) == {0xFF}


def test_a_chip_that_does_not_answer_is_told(pty_board: Board, image: Path) -> None:
    pty_board.chip.answers = False
    with client_of(pty_board, before="no-reset") as client:
        with pytest.raises(DriverError, match=r"flash failed: Failed to connect to ESP32.*"):
            client.flash(image)
        pty_board.chip.answers = True
        client.flash(image)
    assert pty_board.chip.flash[: len(IMAGE)] == IMAGE


def test_data_that_is_damaged_on_its_way_is_told(board: Board, image: Path) -> None:
    board.chip.damage = lambda data: bytes((data[0] ^ 1,)) + data[1:]
    with client_of(board) as client, pytest.raises(DriverError, match="flash failed: "):
        client.flash(image)
    # and the chip is not left in its loader
    assert not board.chip.in_download


def test_an_image_that_does_not_fit_is_told(pty_board: Board, image: Path) -> None:
    with client_of(pty_board, before="no-reset") as client, pytest.raises(DriverError, match="flash failed"):
        client.flash(image, target="0x3ff000")


@pytest.mark.slow
def test_a_port_that_goes_away_is_told_and_works_again(server: Any, image: Path) -> None:
    board = Board(server.url, server.chip)
    # given a cable that falls out whenever data comes, so that esptool's own second try fails as well
    board.chip.on_command = lambda command: server.unplug() if command == 0x11 else None
    with client_of(board) as client:
        with pytest.raises(DriverError, match="flash failed"):
            client.flash(image)
        # when it is plugged in again
        board.chip.on_command = lambda command: None
        client.flash(image)
    assert board.chip.flash[: len(IMAGE)] == IMAGE


def test_a_port_that_is_not_there_is_told(image: Path) -> None:
    with client_of(Board("/dev/nothing", None)) as client, pytest.raises(DriverError, match="Could not open /dev/n"):
        client.flash(image)


def test_an_operation_that_takes_too_long_is_ended(pty_board: Board) -> None:
    ended = threading.Event()
    pty_board.chip.on_command = lambda command: command == 0xD0 and ended.wait(BOUND)
    with client_of(pty_board, before="no-reset", timeout=2) as client:
        with pytest.raises(DriverError, match="erase did not end within 2 s"):
            client.erase()
        ended.set()
    eventually(lambda: not workers())


def test_nothing_runs_on_when_the_session_ends(pty_board: Board) -> None:
    started, ended = threading.Event(), threading.Event()

    def hang(_: int) -> None:
        started.set()
        ended.wait(BOUND)

    pty_board.chip.on_command = hang
    failures: list[BaseException] = []
    with client_of(pty_board, before="no-reset") as client:

        def erase() -> None:
            try:
                client.erase()
            except BaseException as error:  # noqa: BLE001 (what is raised depends on what ends first)
                failures.append(error)

        thread = threading.Thread(target=erase)
        thread.start()
        assert started.wait(BOUND)
    thread.join(BOUND)
    ended.set()
    assert failures
    eventually(lambda: not workers())


@pytest.mark.parametrize("target", ["ram", "-1", "0x10000000", "1e3"])
def test_addresses_that_can_t_be_are_refused(pty_board: Board, image: Path, target: str) -> None:
    with client_of(pty_board, before="no-reset") as client, pytest.raises(DriverError, match="its address in flash"):
        client.flash(image, target=target)
    assert pty_board.chip.commands == []


@pytest.mark.parametrize("partition", ["0x1000", "a:b", "0:0", "0:0x9000000", ":"])
def test_parts_that_can_t_be_are_refused(pty_board: Board, tmp_path: Path, partition: str) -> None:
    with client_of(pty_board, before="no-reset") as client, pytest.raises(DriverError, match="ADDRESS:SIZE"):
        client.dump(tmp_path / "dump", partition=partition)
    assert pty_board.chip.commands == []


def test_an_empty_image_is_refused(pty_board: Board, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with client_of(pty_board, before="no-reset") as client, pytest.raises(DriverError, match="image is empty"):
        client.flash(tmp_path / "empty")
    assert pty_board.chip.commands == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chip": "z80"}, "chip must be one of"),
        ({"chip": 32}, "chip must be one of"),
        ({"baudrate": 0}, "baudrate must be"),
        ({"baudrate": "fast"}, "baudrate must be"),
        ({"before": "pray"}, "before must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"connect_attempts": 0}, "connect_attempts must be"),
    ],
)
def test_settings_that_can_t_work_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Esp32Flasher(children={"serial": PySerial(url="loop://")}, **config)


def test_the_serial_port_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="needs a child 'serial'"):
        Esp32Flasher()


def test_chips_are_those_of_esptool() -> None:
    from esptool.targets import CHIP_DEFS

    assert set(CHIP_DEFS) | {"auto"} >= {"esp32", "esp32s3", "esp32c6"}
    assert set(CHIP_DEFS) <= CHIPS
    assert Esp32Flasher(children={"serial": PySerial(url="loop://")}, chip="ESP32-S3")._loader.chip == "esp32s3"


def test_the_command_line_does_all_that_the_client_does(pty_board: Board, image: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.bin"
    second.write_bytes(b"second")
    with client_of(pty_board, before="no-reset") as client:

        def j(*words: str) -> Any:
            return CliRunner().invoke(client.cli(), list(words))

        assert j("flash", f"0x1000:{image}", f"0x8000:{second}").exit_code == 0
        assert pty_board.chip.flash[0x1000 : 0x1000 + len(IMAGE)] == IMAGE
        assert pty_board.chip.flash[0x8000:0x8006] == b"second"
        assert j("flash", str(second), "-a", "0x9000").exit_code == 0
        assert pty_board.chip.flash[0x9000:0x9006] == b"second"
        assert json.loads(j("chip-info").stdout)["chip"] == "ESP32"
        assert j("dump", str(tmp_path / "out"), "-p", "0x8000:6").exit_code == 0
        assert (tmp_path / "out").read_bytes() == b"second"
        assert j("erase").exit_code == 0
        assert pty_board.chip.flash[0x8000:0x8006] == b"\xff" * 6
        assert isinstance(j("reset").exception, DriverMethodNotImplemented)
        assert isinstance(j("bootloader").exception, DriverMethodNotImplemented)
        assert j("flash", "a", "b", "-a", "0").exit_code == 2
        assert j("flash", "0x0:a", "0x0:b").exit_code == 2


def test_the_config_of_the_readme_loads() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    config = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate({"children": config["export"]}).instantiate()
    assert isinstance(driver.children["esp32"], Esp32Flasher)
    driver.close()
