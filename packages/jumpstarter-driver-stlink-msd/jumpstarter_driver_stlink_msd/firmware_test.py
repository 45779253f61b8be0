"""Firmware files: which are taken for what, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumpstarter_driver_stlink_msd.firmware import BINARY, HEX, FirmwareError, check, kind_of, suffix_of

RECORDS = b":10010000214601360121470136007EFE09D2190140\r\n:00000001FF\r\n"
"""The example of the format's usual descriptions."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The path of a file."""
    return tmp_path / "image"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(RECORDS, HEX), (b"\x00\x00\x02\x20\x01\x00\x00\x08", BINARY), (b":not hex", BINARY), (b"", BINARY)],
)
def test_kind_shows_in_the_content(image: Path, content: bytes, kind: str) -> None:
    image.write_bytes(content)

    assert kind_of(image) == kind


@pytest.mark.parametrize("name", ["a.bin", "A.BIN", "my firmware.hex"])
def test_names_end_in_bin_or_hex(name: str) -> None:
    assert suffix_of(name) in (BINARY, HEX)


@pytest.mark.parametrize("name", ["a.elf", "bin", "a", "a.bin.gz"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(FirmwareError, match=r"take \.bin and \.hex files only"):
        suffix_of(name)


@pytest.mark.parametrize("content", [RECORDS, RECORDS.replace(b"\r\n", b"\n"), RECORDS.lower(), RECORDS.rstrip()])
def test_hex_files_with_all_kinds_of_line_ends_are_fine(image: Path, content: bytes) -> None:
    image.write_bytes(content)

    check(image, HEX)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"", BINARY, "empty"),
        (b"\x7fELF" + bytes(100), BINARY, "ELF file; convert it"),
        (b"UF2\n" + bytes(100), BINARY, "UF2 file"),
        (b"\x1f\x8b" + bytes(100), BINARY, "gzip"),
        (RECORDS, BINARY, "is an Intel HEX file, but is called .bin"),
        (RECORDS[:45], HEX, "no end record; it was cut off"),
        (RECORDS.replace(b"2146", b"2147"), HEX, "line 1 of the Intel HEX file has a wrong checksum"),
        (RECORDS.replace(b":10", b":11"), HEX, "line 1 of the Intel HEX file is damaged"),
        (RECORDS + RECORDS, HEX, "line 3 .* comes after its end record"),
        (b"\0" * 100, HEX, "line 1 is no record"),
        (b":" + b"0" * 100_000, HEX, "line 1 .* is damaged|is no record"),
    ],
)
def test_what_can_not_be_flashed_is_refused_with_the_reason(
    image: Path, content: bytes, suffix: str, message: str
) -> None:
    image.write_bytes(content)

    with pytest.raises(FirmwareError, match=message):
        check(image, suffix)
