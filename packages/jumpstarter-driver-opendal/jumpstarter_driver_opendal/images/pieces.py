"""An image cut into pieces: files of a handy size with the data that has to travel, and its places on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["PIECE_SIZE", "Extent", "Piece", "PieceWriter", "Plan"]

PIECE_SIZE: Final = 32 << 20
"""Bytes of a piece: what is sent again when its transfer breaks, and what a device stores before the next."""

MAX_EXTENTS: Final = 4096
"""Ranges of a piece; a list of more would be a burden for a small device."""

Kind = Literal["data", "zeros"]


@dataclass(frozen=True)
class Extent:
    """A range of the disk."""

    kind: Kind
    offset: int
    length: int


@dataclass(kw_only=True)
class Piece:
    """One file with the data of some ranges, one after the other, and ranges of zeros beside them."""

    name: str
    size: int = 0
    """Bytes of the file."""
    sha256: str = ""
    """Of the file, in hexadecimal digits."""
    extents: list[Extent] = field(default_factory=list)

    @property
    def covered(self) -> int:
        """Bytes of the disk that are written, zeros included."""
        return sum(extent.length for extent in self.extents)


@dataclass(kw_only=True)
class Plan:
    """All that has to be written to a disk."""

    size: int
    """Bytes that the disk must have."""
    pieces: list[Piece]

    @property
    def data(self) -> int:
        """Bytes that travel."""
        return sum(piece.size for piece in self.pieces)

    @property
    def covered(self) -> int:
        """Bytes of the disk that are written, zeros included."""
        return sum(piece.covered for piece in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """Return the plan in JSON's types; ranges are compact lists, `[kind, offset, length]`."""
        pieces = [
            asdict(piece) | {"extents": [[each.kind, each.offset, each.length] for each in piece.extents]}
            for piece in self.pieces
        ]
        return {"size": self.size, "pieces": pieces}

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """Read what `to_json` returned. Numbers may have come as floats.

        Raises:
            ValueError: it has another form.
        """
        try:
            pieces = [
                Piece(
                    name=str(piece["name"]),
                    size=int(piece["size"]),
                    sha256=str(piece["sha256"]),
                    extents=[Extent(_kind(k), int(offset), int(length)) for k, offset, length in piece["extents"]],
                )
                for piece in value["pieces"]
            ]
            return cls(size=int(value["size"]), pieces=pieces)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no plan of an image: {error!r}") from None


def _kind(value: Any) -> Kind:
    if value not in ("data", "zeros"):
        raise ValueError(f"unknown kind of range {value!r}")
    kind: Kind = value
    return kind


class PieceWriter:
    """A sink that writes pieces into a directory. Blocking, for worker threads.

    Args:
        directory: where the pieces go; it exists.
        piece_size: bytes of a piece.
        before_write: called with a number of bytes before they are written; may raise to refuse them.
    """

    def __init__(
        self, directory: Path, piece_size: int = PIECE_SIZE, before_write: Callable[[int], None] | None = None
    ) -> None:
        self._directory = directory
        self._piece_size = piece_size
        self._before_write = before_write or (lambda _: None)
        self._pieces: list[Piece] = []
        self._fd = -1
        self._digest: Any = None

    def data(self, offset: int, data: memoryview) -> None:
        """Bytes that belong at `offset`.

        Raises:
            OSError: they can't be written.
        """
        while data:
            piece = self._current("data", offset)
            run = data[: self._piece_size - piece.size]
            self._before_write(len(run))
            written = 0
            while written < len(run):
                written += os.write(self._fd, run[written:])
            self._digest.update(run)
            piece.size += len(run)
            _extend(piece, "data", offset, len(run))
            offset += len(run)
            data = data[len(run) :]

    def zeros(self, offset: int, length: int) -> None:
        """A range of zeros."""
        _extend(self._current("zeros", offset), "zeros", offset, length)

    def finish(self, size: int) -> Plan:
        """Return the plan for a disk of `size` bytes."""
        self._end_piece()
        return Plan(size=size, pieces=self._pieces)

    def close(self) -> None:
        """Close the running piece without completing it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _current(self, kind: Kind, offset: int) -> Piece:
        if self._fd >= 0:
            piece = self._pieces[-1]
            last = piece.extents[-1] if piece.extents else None
            goes_on = last is None or (last.kind == kind and last.offset + last.length == offset)
            if piece.size < self._piece_size and (goes_on or len(piece.extents) < MAX_EXTENTS):
                return piece
            self._end_piece()
        piece = Piece(name=f"{len(self._pieces):05d}")
        path = self._directory / piece.name
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._digest = hashlib.sha256()
        self._pieces.append(piece)
        return piece

    def _end_piece(self) -> None:
        if self._fd >= 0:
            self._pieces[-1].sha256 = self._digest.hexdigest()
            self.close()


def _extend(piece: Piece, kind: Kind, offset: int, length: int) -> None:
    last = piece.extents[-1] if piece.extents else None
    if last is not None and last.kind == kind and last.offset + last.length == offset:
        piece.extents[-1] = Extent(kind, last.offset, last.length + length)
    else:
        piece.extents.append(Extent(kind, offset, length))
