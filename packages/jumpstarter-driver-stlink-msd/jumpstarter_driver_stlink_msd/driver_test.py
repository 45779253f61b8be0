"""Flashing firmware onto a board whose drive is mounted on this machine, as an automounter does it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter_driver_opendal import volumes
from jumpstarter_testbench import readme
from jumpstarter_testbench.board_drives import LoopPlug, StlinkBoard

from jumpstarter_driver_stlink_msd.client import StlinkMsdFlasherClient
from jumpstarter_driver_stlink_msd.driver import StlinkMsdFlasher
from jumpstarter_driver_stlink_msd.firmware_test import RECORDS

FIRMWARE = b"\x00\x00\x02\x20\x01\x00\x00\x08" + os.urandom(600_000)
NAME = "NOD_JMPTEST"
"""The label of the drive; no other one on this machine is called so."""


@pytest.fixture(autouse=True)
def other_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take drives with ext2 too, as not every kernel has FAT; hardware_test.py uses that."""
    monkeypatch.setattr(volumes, "FAT", (*volumes.FAT, "ext2"))


@pytest.fixture
def board(tmp_path: Path) -> StlinkBoard:
    """A board that isn't plugged in yet."""
    return StlinkBoard(plug=LoopPlug(tmp_path), label=NAME)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Firmware for the board."""
    path = tmp_path / "blink.bin"
    path.write_bytes(FIRMWARE)
    return path


@contextmanager
def flasher(**config: Any) -> Iterator[StlinkMsdFlasherClient]:
    with serve(StlinkMsdFlasher(**{"volume_name": NAME, **config})) as client:
        yield client


def test_binary_is_programmed(board: StlinkBoard, image: Path) -> None:
    with board, flasher() as client:
        client.flash(image)

    assert board.flash == FIRMWARE
    assert board.programmed == ["firmware.bin"]


def test_hex_file_is_recognised_and_programmed(board: StlinkBoard, image: Path) -> None:
    image.write_bytes(RECORDS)

    with board, flasher() as client:
        client.flash(image)

    assert (board.flash, board.programmed) == (RECORDS, ["firmware.hex"])


def test_name_on_the_drive_can_be_chosen(board: StlinkBoard, image: Path) -> None:
    with board, flasher() as client:
        client.flash(image, target="My firmware.bin")

    assert board.programmed == ["My firmware.bin"]


def test_complaint_of_the_st_link_is_the_error_and_the_next_time_all_is_well(board: StlinkBoard, image: Path) -> None:
    board.failure = "The interface firmware FAILED to reset/halt the target MCU\r\n"

    with board, flasher() as client:
        with pytest.raises(
            DriverError, match=r"could not program the board: The interface firmware FAILED .*FAIL\.TXT"
        ):
            client.flash(image)
        assert board.flash == b""
        board.failure = ""
        client.flash(image)

    assert board.flash == FIRMWARE


def test_st_link_that_does_nothing_is_an_error(board: StlinkBoard, image: Path) -> None:
    board.hangs = True

    with (
        board,
        flasher(programming_seconds=0.5) as client,
        pytest.raises(DriverError, match=r"has the file, but did not program it within 0\.5 s"),
    ):
        client.flash(image)


def test_st_link_that_does_not_come_back_is_an_error(board: StlinkBoard, image: Path) -> None:
    board.dies = True

    with (
        board,
        flasher(programming_seconds=2) as client,
        pytest.raises(DriverError, match=r"did not come back within 2 s .* nothing is known of the board"),
    ):
        client.flash(image)


def test_missing_board_is_an_error(image: Path) -> None:
    with flasher() as client, pytest.raises(DriverError, match=r"ST-LINK is not there: no drive with name NOD_JMPTEST"):
        client.flash(image)


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (b"\x7fELF" + bytes(100), None, "ELF file; convert it"),
        (FIRMWARE, "firmware.elf", r"take \.bin and \.hex files only"),
        (FIRMWARE, "../firmware.bin", "target is the name of the file on the drive"),
        (FIRMWARE, "firmware.hex", "line 1 is no record"),
    ],
)
def test_what_can_not_be_flashed_is_refused_without_looking_for_a_board(
    image: Path, content: bytes, target: str | None, message: str
) -> None:
    image.write_bytes(content)

    with flasher() as client, pytest.raises(DriverInvalidArgument, match=message):
        client.flash(image, target=target)


def test_image_that_does_not_fit_is_refused(board: StlinkBoard, image: Path) -> None:
    image.write_bytes(bytes(9 << 20))

    with board, flasher() as client, pytest.raises(DriverError, match=r"has room for \d+ only; nothing was written"):
        client.flash(image)
    assert board.programmed == []


def test_drive_without_markers_is_known_by_its_name(board: StlinkBoard, image: Path) -> None:
    board.files = dict  # type: ignore[method-assign]

    with board, flasher() as client:
        client.flash(image)

    assert board.flash == FIRMWARE


def test_st_link_tells_of_itself(board: StlinkBoard) -> None:
    with board, flasher() as client:
        info = client.info()
        printed = CliRunner().invoke(client.cli(), ["info"])

    assert (info["Version"], info["Build"]) == ("0221", "Jan 20 2019 12:46:32")
    assert '"Version": "0221"' in printed.output


def test_dump_is_not_implemented(tmp_path: Path) -> None:
    with flasher() as client, pytest.raises(DriverMethodNotImplemented, match="can't read the flash back"):
        client.dump(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"programming_seconds": 0}, "programming_seconds must be above 0"),
        ({"serial_number": 660}, "put it into quotes"),
        ({"volume_name": ""}, "volume_name must be text"),
        ({"max_size": -1}, "max_size must be"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StlinkMsdFlasher(**config)


def test_config_of_the_readme_makes_its_driver() -> None:
    assert isinstance(readme.exports(__file__)["nucleo"].instantiate(), StlinkMsdFlasher)
