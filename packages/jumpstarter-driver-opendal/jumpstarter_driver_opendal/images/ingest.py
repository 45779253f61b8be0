"""Taking an image into the cache: hashed, checked and cut into pieces as it arrives, kept if its transfer breaks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from anyio import BrokenResourceError, EndOfStream
from anyio.abc import ObjectReceiveStream

from ..transfer import WriteBehind
from ..transfer import finish as finish_in_thread
from .block_map import BlockMap
from .cache import Cache, Entry, Partial, no_space
from .extents import ImageError
from .pieces import Piece, PieceWriter, Plan
from .reading import ImageReader

__all__ = ["CachedImage", "ChecksumMismatch", "Ingest", "find_image", "image_key", "known_sizes", "partial_state"]

Report = Callable[[int], object]

BATCH: Final = 1 << 20
"""Bytes of a stream that are gathered before they go to a worker thread."""

FORMAT: Final = 1
"""Version of what entries of images hold; others are not used."""


def _silent(_: int) -> None:
    """Report to nobody."""


class ChecksumMismatch(ImageError):
    """An image doesn't have the check sum that was asked for."""


class CachedImage:
    """An image in the cache, in pieces. It stays as long as this object is open."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self.key = entry.key
        self.path: Path = entry.path
        self.plan = Plan.from_json(entry.facts["plan"])
        self.facts: dict[str, Any] = {name: value for name, value in entry.facts.items() if name != "plan"}
        """`sha256` and `source_size` of the file, `format`, `compression`, `size` of the disk, `bmap`."""

    def file(self, piece: Piece) -> Path:
        """Return the file of a piece."""
        return self.path / piece.name

    def close(self) -> None:
        """Allow it to be removed when room is needed. May be called again."""
        self._entry.close()


def image_key(sha256: str, bmap_sha256: str | None = None) -> str:
    """Return the key of an image file, as it is cut with a block map."""
    return f"image{FORMAT}-{sha256}" + (f"-bmap-{bmap_sha256}" if bmap_sha256 else "")


def find_image(cache: Cache, sha256: str, bmap_sha256: str | None = None) -> CachedImage | None:
    """Open an image by the SHA-256 of its file; None if it isn't there, or not whole. Blocking."""
    entry = cache.get(image_key(sha256, bmap_sha256))
    if entry is None:
        return None
    try:
        image = CachedImage(entry)
        for piece in image.plan.pieces:
            if image.file(piece).stat().st_size != piece.size:
                raise ValueError
    except (KeyError, ValueError, OSError):
        entry.close()
        cache.remove(entry.key)
        return None
    return image


def known_sizes(cache: Cache) -> set[int]:
    """Return the sizes of the image files in the cache. Blocking."""
    return {int(facts["source_size"]) for facts in cache.facts() if "source_size" in facts}


def partial_state(cache: Cache, name: str) -> tuple[int, str]:
    """Return how much of a transfer is there, and its SHA-256. Blocking."""
    partial = cache.partial(name)
    try:
        digest = hashlib.sha256()
        for chunk in partial.chunks():
            digest.update(chunk)
        return partial.size, digest.hexdigest()
    finally:
        partial.close()


class Ingest:
    """Takes the bytes of one image file. Blocking, for worker threads; not for several at a time.

    Args:
        cache: where the image goes.
        name: says what is transferred, and its version: what is kept of a broken transfer is found by it.
        block_map: the text of a block map.
        sha256: what the file must have, in hexadecimal digits.

    Raises:
        ImageError: the block map is damaged.
        CacheError: the cache can't take it.
    """

    def __init__(self, cache: Cache, name: str, *, block_map: bytes | None = None, sha256: str | None = None) -> None:
        self._cache = cache
        self._expected = sha256.lower() if sha256 else None
        self._bmap_sha256 = hashlib.sha256(block_map).hexdigest() if block_map is not None else None
        self._map = BlockMap.parse(block_map) if block_map is not None else None
        self._partial: Partial = cache.partial(name)
        try:
            self._begin()
        except BaseException:
            self._partial.close()
            raise

    def _begin(self) -> None:
        self._new = self._cache.build()
        self._writer = PieceWriter(self._new.path, before_write=self._new.reserve)
        self._reader = ImageReader(self._writer, self._map)
        self._digest = hashlib.sha256()
        self._fed = 0

    @property
    def kept(self) -> int:
        """Bytes of the file that are there."""
        return self._partial.size

    def resume(self) -> int:
        """Go on with what was kept of an earlier transfer; return how many bytes that is."""
        for chunk in self._partial.chunks():
            self._take(chunk)
        return self._partial.size

    def restart(self) -> None:
        """Forget what was taken, and begin anew."""
        self._partial.clear()
        self._writer.close()
        self._new.close()
        self._begin()

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ImageError: the image is damaged.
            CacheError: there is no room.
        """
        self._new.reserve(len(data))
        self._partial.write(data)
        self._take(data)

    def _take(self, data: bytes) -> None:
        self._digest.update(data)
        self._fed += len(data)
        try:
            self._reader.feed(data)
        except ValueError:  # damage doesn't go away by sending the rest
            self._partial.clear()
            raise
        except OSError as error:
            raise no_space(error, self._cache.directory) from None

    def finish(self, facts: dict[str, Any] | None = None) -> CachedImage:
        """Take the end; return the image.

        Args:
            facts: what else is to be written down about it.

        Raises:
            ChecksumMismatch: the file is not the expected one.
            ImageError: the image is damaged or incomplete.
        """
        sha256 = self._digest.hexdigest()
        try:
            if self._expected is not None and sha256 != self._expected:
                raise ChecksumMismatch(
                    f"the image has the SHA-256 {sha256}, not {self._expected} as expected. "
                    "It is damaged, or the check sum belongs to another image; nothing was written"
                )
            found = self._reader.finish()
        except ValueError:
            self._partial.remove()
            raise
        plan = self._writer.finish(found.size)
        about = {
            **(facts or {}),
            "sha256": sha256,
            "source_size": self._fed,
            "size": found.size,
            "format": found.format,
            "compression": found.compression,
            "bmap": self._bmap_sha256,
            "plan": plan.to_json(),
        }
        entry = self._new.commit(image_key(sha256, self._bmap_sha256), about)
        self._partial.remove()
        return CachedImage(entry)

    def close(self) -> None:
        """Release everything; what was taken of an unfinished file is kept for the next time. May be called again."""
        self._writer.close()
        self._new.close()
        self._partial.close()


async def ingest_stream(ingest: Ingest, stream: ObjectReceiveStream[bytes], report: Report = _silent) -> None:
    """Feed all of a stream.

    Args:
        ingest: takes it.
        stream: is read to its end.
        report: called now and then with the bytes of the file that are there.

    Raises:
        ConnectionAbortedError: the stream broke before its end; what came is kept.
        Exception: what `Ingest.feed` raised.
    """
    behind = WriteBehind(ingest.feed)
    batch = bytearray()
    try:
        while True:
            try:
                batch += await stream.receive()
            except EndOfStream:
                break
            except BrokenResourceError as error:
                raise ConnectionAbortedError(
                    f"the connection ended after {ingest.kept} bytes of the image, before all was there"
                ) from error
            if len(batch) >= BATCH:
                await behind.put(bytes(batch))
                batch.clear()
                report(ingest.kept)
    finally:
        try:
            if batch:
                await behind.put(bytes(batch))
            await behind.flush()
        finally:
            await behind.settle()
    report(ingest.kept)


async def close_ingest(ingest: Ingest) -> None:
    """Close in a worker thread, whatever happens."""
    await finish_in_thread(ingest.close)


def bmap_names(path: str | os.PathLike[str]) -> list[Path]:
    """Return where the block map of an image may lie beside it: `disk.img.xz` has `disk.img.xz.bmap` or `disk.img.bmap`
    or `disk.bmap`, as for `bmaptool`."""
    image = Path(path)
    names = [f"{image.name}.bmap"]
    stem = image.name
    while "." in stem.lstrip("."):
        stem = stem.rpartition(".")[0]
        names.append(f"{stem}.bmap")
    return [image.with_name(name) for name in names]
