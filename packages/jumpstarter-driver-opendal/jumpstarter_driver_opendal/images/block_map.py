"""Block maps (`.bmap`), which tell the blocks of a disk image that matter, with their check sums.

The format is that of `bmaptool` (versions 1.2 to 2.0; `bmaptools/BmapCreate.py` and `BmapCopy.py` describe it).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from .extents import ImageError, Sink

__all__ = ["MAX_SIZE", "BlockMap", "MappedParser", "MappedRange"]

MAX_SIZE: Final = 64 << 20
"""Bytes that a block map may have; that of a terabyte in alternating blocks would have more."""

_ALGORITHMS: Final = ("sha256", "sha1", "sha224", "sha384", "sha512", "md5")


@dataclass(frozen=True)
class MappedRange:
    """Bytes `start` to `end` of the image, the end not included."""

    start: int
    end: int
    checksum: str | None


@dataclass(frozen=True, kw_only=True)
class BlockMap:
    """A block map that was read and checked."""

    image_size: int
    algorithm: str
    ranges: tuple[MappedRange, ...]

    @property
    def mapped(self) -> int:
        """Bytes that matter."""
        return sum(each.end - each.start for each in self.ranges)

    @classmethod
    def parse(cls, text: bytes) -> BlockMap:
        """Read a block map.

        Raises:
            ImageError: it is none, damaged, or of an unknown version.
        """
        if len(text) > MAX_SIZE:
            raise ImageError(f"the block map has more than {MAX_SIZE} bytes")
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ImageError("the block map declares entities, which block maps have no use for")
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ImageError(f"the block map is no XML: {error}") from None
        version = root.get("version", "")
        if root.tag != "bmap" or not re.fullmatch(r"(1\.[2-4]|2\.\d+)", version):
            raise ImageError(f"this is no block map of a version that is known: <{root.tag} version={version!r}>")
        algorithm = _algorithm(root, version)
        _check_itself(root, text, version, algorithm)
        size, block = _number(root, "ImageSize"), _number(root, "BlockSize")
        if not block:
            raise ImageError("the block map is damaged: BlockSize is 0")
        ranges = tuple(_ranges(root, size, block))
        mapped = sum(-(-each.end // block) - each.start // block for each in ranges)
        if mapped != _number(root, "MappedBlocksCount"):
            raise ImageError(f"the block map is damaged: it maps {mapped} blocks, not MappedBlocksCount")
        return cls(image_size=size, algorithm=algorithm, ranges=ranges)


def _text(root: Any, name: str) -> str:
    found = root.find(name)
    return "" if found is None or found.text is None else found.text.strip()


def _number(root: Any, name: str) -> int:
    text = _text(root, name)
    if not re.fullmatch(r"\d{1,18}", text):
        raise ImageError(f"the block map is damaged: {name} is {text!r}, not a number")
    return int(text)


def _algorithm(root: Any, version: str) -> str:
    """Version 1.4 and later name the kind of the check sums, earlier ones have SHA-1."""
    algorithm = _text(root, "ChecksumType") or ("sha1" if version in ("1.2", "1.3") else "sha256")
    if algorithm not in _ALGORITHMS:
        raise ImageError(f"the block map has check sums of the kind {algorithm!r}; known are {', '.join(_ALGORITHMS)}")
    return algorithm


def _check_itself(root: Any, text: bytes, version: str, algorithm: str) -> None:
    """Compare the map's own check sum, which is taken with zeros in its place."""
    expected = _text(root, "BmapFileSHA1" if version == "1.3" else "BmapFileChecksum").lower()
    if not expected:
        return
    blanked = text.replace(expected.encode(), b"0" * len(expected))
    if hashlib.new(algorithm, blanked, usedforsecurity=False).hexdigest() != expected:
        raise ImageError("the block map is damaged: it doesn't have its own check sum. Fetch or make it again")


def _ranges(root: Any, size: int, block: int) -> Any:
    found = root.find("BlockMap")
    position = 0
    for element in found if found is not None else ():
        match = re.fullmatch(r"\s*(\d{1,18})(?:\s*-\s*(\d{1,18}))?\s*", element.text or "")
        if element.tag != "Range" or match is None:
            raise ImageError(f"the block map is damaged: {element.text!r} is no range of blocks")
        first, last = int(match[1]), int(match[2] or match[1])
        start, end = first * block, min((last + 1) * block, size)
        if first > last or start < position or start >= size or last * block >= size:
            raise ImageError(f"the block map is damaged: the range {first}-{last} is out of place")
        checksum = element.get("chksum") or element.get("sha1")
        yield MappedRange(start, end, checksum.lower() if checksum else None)
        position = end


class MappedParser:
    """Takes the bytes of a disk and tells the sink those that a block map names, checked range by range.

    Raises:
        ImageError: the image is not the one that the map belongs to.
    """

    def __init__(self, block_map: BlockMap, sink: Sink) -> None:
        self._map = block_map
        self._sink = sink
        self._ranges = iter(block_map.ranges)
        self._digest: Any = None
        self._range: MappedRange | None = None
        self.position = 0
        """Bytes of the image that were looked at."""
        self._next()

    def _next(self) -> None:
        self._range = next(self._ranges, None)
        self._digest = None
        if self._range is not None and self._range.checksum is not None:
            self._digest = hashlib.new(self._map.algorithm, usedforsecurity=False)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        if self.position + len(view) > self._map.image_size:
            raise ImageError(
                f"the image is larger than the {self._map.image_size} bytes of its block map; "
                "the map belongs to another image"
            )
        start = self.position
        self.position += len(view)
        while self._range is not None and self._range.start < self.position:
            first, last = max(self._range.start, start), min(self._range.end, self.position)
            run = view[first - start : last - start]
            self._sink.data(first, run)
            if self._digest is not None:
                self._digest.update(run)
            if last < self._range.end:
                break
            self._check(self._range)
            self._next()

    def _check(self, done: MappedRange) -> None:
        if self._digest is not None and self._digest.hexdigest() != done.checksum:
            raise ImageError(
                f"bytes {done.start} to {done.end} of the image don't have the check sum of its block map: "
                "the image is damaged, or the map belongs to another one"
            )

    def finish(self) -> int:
        """Take the end; return the size of the disk in bytes."""
        # Zeros at the end that no range names may be missing from the file.
        needed = self._map.ranges[-1].end if self._map.ranges else 0
        if self.position < needed:
            raise ImageError(
                f"the image ends after {self.position} bytes, its block map names blocks up to {needed}; "
                "was the file copied completely?"
            )
        return self._map.image_size
