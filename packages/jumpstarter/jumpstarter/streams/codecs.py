"""The compressors and decompressors of all formats behind one interface, imported when they are used."""

from __future__ import annotations

from typing import Any, Protocol

from .formats import Compression

__all__ = [
    "Compressor",
    "Decompressor",
    "LazyCompressor",
    "ZlibDecompressor",
    "create_compressor",
    "create_decompressor",
]

XZ_MEMORY_LIMIT = 512 << 20
"""Bytes of memory that unpacking xz may take; `xz -9` needs 65 MiB, a hostile header can ask for 4 GiB."""


class Compressor(Protocol):
    """What the compressor objects of the standard library have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """What the decompressor objects of `bz2`, `lzma` and `zstd` have in common."""

    def decompress(self, data: Any, /, max_length: int = -1) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class ZlibDecompressor:
    """A zlib decompressor with the interface of the other ones, which keep input that they can't use yet."""

    def __init__(self, inner: Any = None) -> None:
        import zlib

        # 32 + 15: a gzip or a zlib header, the largest window.
        self._inner = zlib.decompressobj(wbits=47) if inner is None else inner
        self._full = False

    def decompress(self, data: Any, /, max_length: int = -1) -> bytes:
        tail = self._inner.unconsumed_tail
        if tail:
            data = tail + bytes(data)
        output: bytes = self._inner.decompress(data, max(max_length, 0))
        # zlib may hold output back when it had room for exactly this much.
        self._full = 0 < max_length <= len(output)
        return output

    def flush(self) -> bytes:
        output: bytes = self._inner.flush()
        return output

    @property
    def eof(self) -> bool:
        ended: bool = self._inner.eof
        return ended

    @property
    def needs_input(self) -> bool:
        return not (self.eof or self._inner.unconsumed_tail or self._full)

    @property
    def unused_data(self) -> bytes:
        unused: bytes = self._inner.unused_data
        return unused


def _zstd() -> Any:
    """The zstd module: in the standard library from Python 3.14 on, a backport before."""
    import importlib

    try:
        return importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return importlib.import_module("backports.zstd")


def create_decompressor(compression: Compression) -> Any:
    """Return an object that unpacks one member of a file: `decompress(data, max_length=-1)`, `eof`, `unused_data`."""
    match compression:
        case Compression.GZIP:
            return ZlibDecompressor()
        case Compression.XZ:
            import lzma

            return lzma.LZMADecompressor(memlimit=XZ_MEMORY_LIMIT)
        case Compression.BZ2:
            import bz2

            return bz2.BZ2Decompressor()
        case Compression.ZSTD:
            return _zstd().ZstdDecompressor()


def create_compressor(compression: Compression) -> Compressor:
    """Return an object that packs one file."""
    match compression:
        case Compression.GZIP:
            import zlib

            return zlib.compressobj(wbits=31)  # 16 + 15: a gzip header, the largest window
        case Compression.XZ:
            import lzma

            return lzma.LZMACompressor()
        case Compression.BZ2:
            import bz2

            return bz2.BZ2Compressor()
        case Compression.ZSTD:
            zstd = _zstd()
            # With the check sum that the command line tool adds as well, so that corruption is found.
            compressor: Compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
            return compressor


class LazyCompressor:
    """A compressor that takes no memory before it is used (xz needs 94 MiB), since most streams go one way only."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._inner: Compressor | None = None

    def compress(self, data: bytes, /) -> bytes:
        self._inner = self._inner or create_compressor(self._compression)
        return self._inner.compress(data)

    def flush(self) -> bytes:
        self._inner = self._inner or create_compressor(self._compression)
        return self._inner.flush()
