"""UF2 images: which are refused and why, and what a board gets of those for several."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jumpstarter_testbench.board_drives import uf2

from jumpstarter_driver_pi_pico import uf2 as module
from jumpstarter_driver_pi_pico.uf2 import Uf2Error, check, parse_info, select


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The path of an image."""
    return tmp_path / "image.uf2"


def test_complete_image_is_accepted_with_its_blocks_in_any_order(image: Path) -> None:
    blocks = uf2(bytes(1000))
    image.write_bytes(blocks[1024:] + blocks[:1024])

    parts = check(image)

    assert {family: part.count for family, part in parts.items()} == {module.RP2040: 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x7fELF" + bytes(600), r"block 0 of 2.*ELF file; convert it"),
        (b":10000000", "Intel HEX"),
        (bytes(4096), "does not begin like one"),
        (uf2(bytes(1000))[:-100], r"block 3 of 4.*damaged"),
        (uf2(bytes(1000))[:-512], "incomplete: it has 3 of 4 blocks for RP2040"),
        (uf2(bytes(1000))[:512] * 4, "incomplete: it has 1 of 4 blocks"),
        (uf2(bytes(300))[:516] + bytes(600), "damaged"),
    ],
    ids=["empty", "elf", "hex", "zeros", "cut", "block missing", "block doubled", "garbage"],
)
def test_what_is_no_complete_image_is_refused_with_the_reason(image: Path, content: bytes, message: str) -> None:
    image.write_bytes(content)

    with pytest.raises(Uf2Error, match=message):
        check(image)


def test_image_for_another_processor_is_refused(image: Path, tmp_path: Path) -> None:
    image.write_bytes(uf2(b"x", module.RP2350_ARM_S))

    with pytest.raises(Uf2Error, match="the image is for RP2350 Arm, but the board is 'RPI-RP2'"):
        select(image, tmp_path / "out", module.BOARD_FAMILIES["RPI-RP2"], "RPI-RP2")


def test_image_for_several_processors_is_reduced_to_what_the_board_takes(image: Path, tmp_path: Path) -> None:
    ours = uf2(b"for the RP2350" * 40, module.RP2350_ARM_S)
    image.write_bytes(uf2(b"for the RP2040") + ours)

    chosen = select(image, tmp_path / "out", module.BOARD_FAMILIES["RP2350"], "RP2350")

    assert chosen.read_bytes() == ours


def test_workaround_block_of_the_rp2350_goes_along_but_is_no_image(image: Path, tmp_path: Path) -> None:
    workaround = uf2(bytes(512), module.ABSOLUTE, 0x10FFFF00)[:512]
    families = module.BOARD_FAMILIES["RP2350"]
    image.write_bytes(workaround + uf2(b"firmware", module.RP2350_ARM_S))
    assert select(image, tmp_path / "out", families, "RP2350") == image

    image.write_bytes(workaround + uf2(b"firmware", module.RP2040))
    with pytest.raises(Uf2Error, match="Build it for this board"):
        select(image, tmp_path / "out", families, "RP2350")


def test_blocks_that_name_no_family_are_for_every_board(image: Path, tmp_path: Path) -> None:
    block = bytearray(uf2(b"x"))
    struct.pack_into("<I", block, 8, 0)
    image.write_bytes(block)

    assert select(image, tmp_path / "out", module.BOARD_FAMILIES["RPI-RP2"], "RPI-RP2") == image


def test_blocks_beside_the_flash_do_not_count(image: Path) -> None:
    block = bytearray(uf2(b"x"))
    struct.pack_into("<I", block, 8, 0x2001)
    image.write_bytes(block)

    with pytest.raises(Uf2Error, match="nothing for the flash"):
        check(image)


@given(content=st.binary(max_size=1200))
def test_no_content_makes_the_check_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    image = tmp_path_factory.getbasetemp() / "fuzzed.uf2"
    for prefix in (b"", uf2(b"x")[:508], uf2(b"x")[:32]):
        image.write_bytes(prefix + content)
        try:
            parts = check(image)
        except Uf2Error:
            continue
        assert parts


def test_info_of_the_boot_loader_is_read() -> None:
    assert parse_info("UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n") == {
        "Bootloader": "UF2 Bootloader v3.0",
        "Model": "Raspberry Pi RP2",
        "Board-ID": "RPI-RP2",
    }
