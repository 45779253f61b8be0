"""What a board is told to do with a piece of an image: a list of `dd` runs, one per line, for `board.sh`.

A line is `KIND SIZE SEEK COUNT AT`: write COUNT blocks of SIZE bytes from block SEEK on, from the piece (`d`) or zeros
(`z`). AT is the number of bytes that are done then, to be reported, or `-`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jumpstarter_driver_opendal.images.pieces import Extent, Piece

__all__ = ["SUFFIX", "dd_runs", "list_of"]

SUFFIX: Final = ".ops"
"""What the list of a piece has after the piece's name."""

LARGE_BLOCK: Final = 1 << 20
"""Bytes of the blocks in which large ranges are written."""

RUN: Final = 4 << 20
"""Bytes of one `dd`, after which progress is reported."""

REPORT: Final = 1 << 20
"""Bytes between two reports."""

SMALLEST: Final = 512


def dd_runs(extent: Extent) -> Iterator[tuple[int, int, int]]:
    """Yield size, seek and count of the `dd` runs that cover a range, in its order."""
    offset, left = extent.offset, extent.length
    while left:
        size = LARGE_BLOCK
        while size > 1 and (offset % size or size > left):
            size //= 2
        if size < SMALLEST:
            size = 1
        count = max(left // size, 1)
        if size < LARGE_BLOCK and left >= LARGE_BLOCK:
            # Up to where large blocks begin.
            count = (LARGE_BLOCK - offset % LARGE_BLOCK) // size
        count = min(count, max(RUN // size, 1))
        if size == 1:
            count = min(count, SMALLEST - offset % SMALLEST)
        yield size, offset // size, count
        offset += size * count
        left -= size * count


def list_of(piece: Piece) -> str:
    """Return the list of a piece."""
    lines = []
    done = reported = 0
    for extent in piece.extents:
        for size, seek, count in dd_runs(extent):
            done += size * count
            at = "-"
            if done - reported >= REPORT or done == piece.covered:
                at, reported = str(done), done
            lines.append(f"{extent.kind[0]} {size} {seek} {count} {at}\n")
    return "".join(lines)
