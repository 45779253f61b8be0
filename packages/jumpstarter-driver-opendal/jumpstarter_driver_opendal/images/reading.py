"""Reading images of any known format: finds out what the bytes are, unpacks them, and tells what is on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from jumpstarter.streams.codecs import create_decompressor
from jumpstarter.streams.formats import detect_compression_from_signature
from jumpstarter.streams.unpacking import Decoder

from .block_map import BlockMap, MappedParser
from .extents import ImageError, RawParser, Sink
from .sparse import MAGIC as SPARSE_MAGIC
from .sparse import SparseParser

__all__ = ["ImageFacts", "ImageReader"]

HEAD: Final = 512
"""Bytes that decide what an image is."""

OUTPUT: Final = 1 << 20
"""Bytes that are unpacked at a time."""

_FOREIGN: Final = (
    (0, b"QFI\xfb", "a qcow2 image", "Convert it first: qemu-img convert -O raw IMAGE disk.img"),
    (0, b"KDMV", "a VMDK image", "Convert it first: qemu-img convert -O raw IMAGE disk.img"),
    (0, b"vhdxfile", "a VHDX image", "Convert it first: qemu-img convert -O raw IMAGE disk.img"),
    (0, b"PK\x03\x04", "a zip archive", "Take the image out of it first: unzip ARCHIVE"),
    (0, b"\x04\x22\x4d\x18", "packed with lz4", "Unpack it first: unlz4 IMAGE"),
    (257, b"ustar", "a tar archive", "Take the image out of it first: tar -xf ARCHIVE"),
    (0, b"<bmap", "a block map", "Give the image that it belongs to"),
    (0, b"<?xml", "an XML file", "Give the image itself; a block map goes with the option for it"),
)
"""Places and first bytes of files that look like images to a hurried user, what they are, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What was found out about an image."""

    size: int
    """Bytes of the disk."""
    format: str
    """`raw`, `android-sparse` or `bmap`."""
    compression: str | None
    """`gzip`, `xz`, `bz2` or `zstd`."""


class _Parser(Protocol):
    def feed(self, data: bytes | memoryview, /) -> None: ...
    def finish(self) -> int: ...


class ImageReader:
    """Takes the bytes of an image file as they come and tells a sink about the disk. Blocking, for worker threads.

    Args:
        sink: is told what is on the disk.
        block_map: the block map of the image, if there is one; only the blocks that it names are told then.
    """

    def __init__(self, sink: Sink, block_map: BlockMap | None = None) -> None:
        self._sink = sink
        self._block_map = block_map
        self._head = bytearray()
        self._decoder: Decoder | None = None
        self._compression: str | None = None
        self._plain_head = bytearray()
        self._parser: _Parser | None = None
        self._format = "raw"
        self._started = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ImageError: the image is damaged, or can't be written to a disk as it is.
            DecompressionError: what is packed is damaged.
        """
        if self._started:
            self._unpack(data)
            return
        self._head += data
        if len(self._head) >= HEAD:
            self._start()

    def finish(self) -> ImageFacts:
        """Take the end.

        Raises:
            ImageError: the image is damaged, incomplete or empty.
            DecompressionError: what is packed is cut short.
        """
        if not self._started:
            self._start()
        if self._decoder is not None:
            self._decoder.finish()
        if self._parser is None:
            if not self._plain_head:
                raise ImageError("the image is empty")
            self._choose()
        assert self._parser is not None
        size = self._parser.finish()
        return ImageFacts(size=size, format=self._format, compression=self._compression)

    def _start(self) -> None:
        self._started = True
        head = bytes(self._head)
        self._head.clear()
        compression = detect_compression_from_signature(head)
        if compression is not None:
            self._compression = str(compression)
            self._decoder = Decoder(self._compression, partial(create_decompressor, compression))
        self._unpack(head)

    def _unpack(self, data: bytes) -> None:
        if self._decoder is None:
            self._plain(data)
            return
        self._decoder.feed(data)
        while self._decoder.pending:
            self._plain(self._decoder.read(OUTPUT))

    def _plain(self, data: bytes) -> None:
        if self._parser is None:
            self._plain_head += data
            if len(self._plain_head) >= HEAD:
                self._choose()
            return
        self._parser.feed(data)

    def _choose(self) -> None:
        head = bytes(self._plain_head)
        self._plain_head.clear()
        for place, signature, what, advice in _FOREIGN:
            if head[place : place + len(signature)] == signature:
                raise ImageError(f"this is {what}, not the image of a disk. {advice}")
        if (again := detect_compression_from_signature(head)) is not None and self._decoder is not None:
            raise ImageError(f"the image is packed twice ({self._compression} around {again}). Unpack it once")
        if head.startswith(SPARSE_MAGIC):
            if self._block_map is not None:
                raise ImageError("a block map goes with a plain image, this one is an Android sparse image")
            self._parser, self._format = SparseParser(self._sink), "android-sparse"
        elif self._block_map is not None:
            self._parser, self._format = MappedParser(self._block_map, self._sink), "bmap"
        else:
            self._parser = RawParser(self._sink)
        self._parser.feed(head)
