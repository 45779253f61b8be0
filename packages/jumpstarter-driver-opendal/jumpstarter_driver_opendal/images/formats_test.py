"""Images of all formats, made by the tools that people use, come out as the disk that they describe."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import subprocess
from pathlib import Path

import pytest
from jumpstarter.streams.codecs import create_compressor
from jumpstarter.streams.formats import Compression
from jumpstarter.streams.unpacking import DecompressionError

from .block_map import BlockMap
from .cache import Cache
from .conftest import MIB, disk_content, written
from .extents import ImageError
from .ingest import CachedImage, ChecksumMismatch, Ingest


def ingest(
    cache: Cache, content: bytes, *, block_map: bytes | None = None, sha256: str | None = None, chunk: int = 70_001
) -> CachedImage:
    taking = Ingest(cache, "test", block_map=block_map, sha256=sha256)
    try:
        for start in range(0, len(content), chunk):
            taking.feed(content[start : start + chunk])
        return taking.finish()
    finally:
        taking.close()


def zstd(data: bytes) -> bytes:
    compressor = create_compressor(Compression.ZSTD)
    return compressor.compress(data) + compressor.flush()


PACKERS = {"plain": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zstd": zstd}


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_image_becomes_the_disk_it_was_made_of(cache: Cache, packer: str):
    content = disk_content()
    packed = PACKERS[packer](content)
    image = ingest(cache, packed)
    assert written(image) == content
    assert image.facts["sha256"] == hashlib.sha256(packed).hexdigest()
    assert image.facts["compression"] == (None if packer == "plain" else packer)
    assert image.facts["format"] == "raw"


def test_runs_of_zeros_do_not_travel(cache: Cache):
    image = ingest(cache, disk_content())
    assert image.plan.covered == 6 * MIB
    assert image.plan.data < 3 * MIB


def test_image_whose_size_is_no_multiple_of_anything_keeps_its_size(cache: Cache):
    content = disk_content()[: 2 * MIB - 12_345] + b"end"
    image = ingest(cache, content)
    assert image.plan.size == len(content)
    assert written(image) == content


def test_large_image_is_cut_into_pieces_that_are_whole_by_themselves(cache: Cache):
    content = bytes(range(1, 255)) * (70 * MIB // 254)
    image = ingest(cache, content, chunk=MIB)
    assert [piece.size for piece in image.plan.pieces[:-1]] == [32 * MIB] * 2
    assert written(image) == content


@pytest.mark.need("sparse-images")
@pytest.mark.parametrize("packed", [False, True])
def test_sparse_image_of_img2simg_becomes_the_disk(cache: Cache, tmp_path: Path, packed: bool):
    content = disk_content()
    plain, sparse = tmp_path / "disk.img", tmp_path / "disk.simg"
    plain.write_bytes(content)
    subprocess.run(["img2simg", plain, sparse], check=True, timeout=30)
    data = sparse.read_bytes()
    image = ingest(cache, gzip.compress(data) if packed else data)
    assert image.facts["format"] == "android-sparse"
    # Zeros that img2simg found are "don't care" in its images: a device that is told nothing keeps what it has.
    assert written(image, filler=b"\0") == content
    assert image.plan.data < 3 * MIB


@pytest.mark.need("sparse-images")
def test_sparse_image_that_is_cut_short_is_told_from_a_whole_one(cache: Cache, tmp_path: Path):
    plain, sparse = tmp_path / "disk.img", tmp_path / "disk.simg"
    plain.write_bytes(disk_content())
    subprocess.run(["img2simg", plain, sparse], check=True, timeout=30)
    with pytest.raises(ImageError, match="cut short"):
        ingest(cache, sparse.read_bytes()[:-100])


def test_sparse_fill_and_check_sum_chunks_are_understood(cache: Cache):
    import struct
    import zlib

    disk = b"\xde\xad\xbe\xef" * 2048 + bytes(4096) + b"x" * 4096
    header = struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, 28, 12, 4096, 4, 4, 0)
    chunks = [
        struct.pack("<HHII", 0xCAC2, 0, 2, 16) + b"\xde\xad\xbe\xef",
        struct.pack("<HHII", 0xCAC2, 0, 1, 16) + bytes(4),
        struct.pack("<HHII", 0xCAC1, 0, 1, 12 + 4096) + b"x" * 4096,
        struct.pack("<HHII", 0xCAC4, 0, 0, 16) + struct.pack("<I", zlib.crc32(disk)),
    ]
    assert written(ingest(cache, header + b"".join(chunks), chunk=7)) == disk
    chunks[3] = struct.pack("<HHII", 0xCAC4, 0, 0, 16) + struct.pack("<I", zlib.crc32(disk) ^ 1)
    with pytest.raises(ImageError, match="check sum"):
        ingest(cache, header + b"".join(chunks))


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[bytes, bytes]:
    """An image with holes, and the block map that bmaptool makes of it."""
    content = disk_content()
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), 4096):
            if any(block := content[start : start + 4096]):
                file.seek(start)
                file.write(block)
    block_map = subprocess.run(["bmaptool", "create", path], capture_output=True, check=True, timeout=30).stdout
    return content, block_map


@pytest.mark.need("bmap-tools")
@pytest.mark.parametrize("packed", [False, True])
def test_only_the_blocks_of_a_map_by_bmaptool_are_written(cache: Cache, mapped: tuple[bytes, bytes], packed: bool):
    content, block_map = mapped
    parsed = BlockMap.parse(block_map)
    assert parsed.image_size == len(content)
    assert parsed.mapped < 3 * MIB
    image = ingest(cache, gzip.compress(content) if packed else content, block_map=block_map)
    assert image.facts["format"] == "bmap"
    assert image.plan.data == image.plan.covered == parsed.mapped
    disk = written(image)
    for each in parsed.ranges:
        assert disk[each.start : each.end] == content[each.start : each.end]
    unmapped = len(content) - parsed.mapped
    assert disk.count(b"\xaa") >= unmapped


@pytest.mark.need("bmap-tools")
def test_image_that_differs_from_its_map_in_one_byte_is_refused(cache: Cache, mapped: tuple[bytes, bytes]):
    content, block_map = mapped
    damaged = bytearray(content)
    damaged[3 * MIB + 10] ^= 1
    with pytest.raises(ImageError, match="check sum of its block map"):
        ingest(cache, bytes(damaged), block_map=block_map)


@pytest.mark.need("bmap-tools")
def test_map_that_was_changed_is_refused_by_its_own_check_sum(cache: Cache, mapped: tuple[bytes, bytes]):
    content, block_map = mapped
    with pytest.raises(ImageError, match="own check sum"):
        ingest(cache, content, block_map=block_map.replace(b"<Range", b"<Range ", 1))


@pytest.mark.need("bmap-tools")
def test_image_that_is_shorter_than_its_map_is_refused(cache: Cache, mapped: tuple[bytes, bytes]):
    content, block_map = mapped
    with pytest.raises(ImageError, match="ends after"):
        ingest(cache, content[: 4 * MIB], block_map=block_map)


@pytest.mark.need("bmap-tools")
def test_map_of_a_smaller_image_is_refused(cache: Cache, mapped: tuple[bytes, bytes]):
    content, block_map = mapped
    with pytest.raises(ImageError, match="another image"):
        ingest(cache, content + b"more", block_map=block_map)


@pytest.mark.parametrize(
    "text",
    [
        b"not xml",
        b"<bmap version='9.0'/>",
        b"<!DOCTYPE bmap [<!ENTITY a 'b'>]><bmap version='2.0'/>",
        b"<bmap version='2.0'><ImageSize>x</ImageSize></bmap>",
        b"<bmap version='2.0'><ImageSize>8192</ImageSize><BlockSize>4096</BlockSize><MappedBlocksCount>9"
        b"</MappedBlocksCount><BlockMap><Range>0-8</Range></BlockMap></bmap>",
        b"<bmap version='2.0'><ImageSize>8192</ImageSize><BlockSize>0</BlockSize><MappedBlocksCount>0"
        b"</MappedBlocksCount></bmap>",
    ],
)
def test_text_that_is_no_usable_block_map_is_refused(text: bytes):
    with pytest.raises(ImageError):
        BlockMap.parse(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"QFI\xfb" + bytes(600), "qcow2"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (bytes(257) + b"ustar" + bytes(600), "tar"),
        (gzip.compress(b"PK\x03\x04" + bytes(600)), "zip"),
        (gzip.compress(gzip.compress(b"x" * 5000)), "packed twice"),
        (b"<?xml version='1.0'?><bmap>" + bytes(600), "XML"),
    ],
)
def test_what_is_no_disk_image_is_named(cache: Cache, content: bytes, words: str):
    with pytest.raises(ImageError, match=words):
        ingest(cache, content)
    assert cache.facts() == []


@pytest.mark.parametrize("packer", ["gzip", "xz", "bz2"])
def test_packed_image_that_is_cut_short_is_told_from_a_whole_one(cache: Cache, packer: str):
    packed = PACKERS[packer](disk_content())
    with pytest.raises(DecompressionError, match="cut short"):
        ingest(cache, packed[: len(packed) // 2])


def test_wrong_check_sum_names_both(cache: Cache):
    content = disk_content()
    with pytest.raises(ChecksumMismatch, match=hashlib.sha256(content).hexdigest()):
        ingest(cache, content, sha256="0" * 64)
    assert cache.facts() == []


def test_right_check_sum_may_be_written_in_capitals(cache: Cache):
    content = disk_content()
    assert ingest(cache, content, sha256=hashlib.sha256(content).hexdigest().upper()).plan.size == len(content)
