"""The board's side of a flash: what `board.sh` is asked to do in the Linux that was booted, and what it answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from .errors import FlashError, FlashNonRetryableError, FlashRetryableError

if TYPE_CHECKING:
    from jumpstarter_driver_uboot.console import Console

__all__ = ["Board", "script"]

SLOWEST: Final = 256 << 10
"""Bytes per second that a board is expected to write and read at least."""

GRACE: Final = 120.0
"""Seconds that a board may take beyond that."""

PIECE_TRIES: Final = 3
"""Tries in a row that bring no piece onto the disk before a flash is given up."""

BATCH: Final = 16
"""Pieces that are written by one command; between two commands a console rests a moment."""

_FAILED: Final = re.compile(r"jmp-fail (.*)")
_DONE: Final = re.compile(r"jmp-done (\S+)")
_AT: Final = re.compile(r"jmp-at (\d+)(?=\n)")
_PASSING: Final = ("the transfer of piece", "can't get")

Report = Callable[[int], object]


def script() -> bytes:
    """Return the program for the board."""
    return (files(__package__) / "board.sh").read_bytes()


class Board:
    """A board at the shell of its flashing system.

    Args:
        console: runs commands in that shell.
        url: where the board finds the program, and pieces of images below it.
    """

    def __init__(self, console: Console, url: str) -> None:
        self._console = console
        self._url = url.rstrip("/")
        self._program = "/tmp/jumpstarter/board.sh"

    def install(self, url: str, timeout: float = 60) -> None:
        """Fetch the program and see that the board has what it needs.

        Raises:
            FlashError: it can't be had, or tools are missing.
        """
        quote = self._console.dialect.quote
        program = quote(self._program)
        folder = quote(self._program.rpartition("/")[0])
        result = self._console.run(f"mkdir -p {folder} && rm -f {program}", timeout=timeout)
        if result.status != 0:
            raise FlashNonRetryableError(f"the flasher's Linux can't write to /tmp: {_last(result.text)}")
        get = (
            f"if command -v wget >/dev/null; then wget -q -O {program} {quote(url)}; "
            f"else curl -fsS -o {program} {quote(url)}; fi"
        )
        result = self._console.run(get, timeout=timeout)
        if result.status != 0:
            raise FlashRetryableError(f"the board can't get {url}: {_last(result.text)}")
        size = self._console.run(f"wc -c <{program}", timeout=timeout, check=True).text.strip()
        if size != str(len(script())):
            raise FlashRetryableError(f"the board got {size} of {len(script())} bytes of {url}")
        self._run("check", [], timeout)

    def disk_at(self, address: str) -> str:
        """Return the path of the disk at a hardware address."""
        return self._answer("disk", "find", [address])

    def partition(self, label: str, disk: str | None = None) -> str:
        """Return the path of the partition with a label, on one disk or on any."""
        return self._answer("disk", "label", [label, *([disk] if disk else [])])

    def size(self, disk: str) -> int:
        """Return the bytes of a disk."""
        return int(self._answer("size", "size", [disk]))

    def write(self, disk: str, path: str, pieces: Sequence[Mapping[str, Any]], report: Report) -> None:
        """Write an image; what is stored is not written again when the transfer of a piece breaks.

        Args:
            disk: where it goes.
            path: of the image below the board's URL.
            pieces: `name`, `size` and `zeros` of each.
            report: called with the bytes that are done.

        Raises:
            FlashError: it is not on the disk.
        """
        left, before, tries = list(pieces), 0, 0
        while left:
            batch = left[:BATCH]
            covered = [_covered(piece) for piece in batch]
            names = [str(piece["name"]) for piece in batch]
            follower = _Follower(report, before, dict(zip(names, covered, strict=True)))
            failure: FlashRetryableError | None = None
            try:
                arguments = [disk, f"{self._url}/{path}", *names]
                self._run("write", arguments, GRACE + sum(covered) / SLOWEST, follower)
            except FlashRetryableError as error:
                failure = error
            done = len(follower.stored) if failure is not None else len(batch)
            before += sum(covered[:done])
            del left[:done]
            tries = 0 if done else tries + 1
            if failure is not None and tries >= PIECE_TRIES:
                raise failure
            report(before)

    def verify(self, disk: str, path: str, piece: Mapping[str, Any], report: Report) -> None:
        """Read a piece back from the disk and compare it.

        Raises:
            FlashError: the disk holds something else, or can't be read.
        """
        size, zeros = int(piece["size"]), int(piece["zeros"])
        sums = [piece["sha256"] if size else "-", sha256_of_zeros(zeros) if zeros else "-"]
        timeout = GRACE + (size + zeros) / SLOWEST
        follower = _Follower(report)
        self._run("verify", [disk, f"{self._url}/{path}", piece["name"], *sums], timeout, follower)

    def stream(self, disk: str, url: str, unpacker: str, report: Report, timeout: float) -> None:
        """Write a whole file that the board gets itself, and unpacks with a program of its own.

        Raises:
            FlashError: it is not on the disk.
        """
        self._run("stream", [disk, url, unpacker], timeout, _Follower(report))

    def _answer(self, key: str, command: str, arguments: list[str]) -> str:
        text = self._run(command, arguments, 60)
        found = re.search(rf"jmp-{key} (\S+)", text)
        if found is None:
            raise FlashRetryableError(f"the board gave no answer to '{command}': {_last(text)}")
        return found[1]

    def _run(self, command: str, arguments: list[str], timeout: float, follow: _Follower | None = None) -> str:
        quoted = " ".join(self._console.dialect.quote(each) for each in arguments)
        result = self._console.run(f"sh {self._program} {command} {quoted}", timeout=timeout, on_text=follow)
        if result.status == 0:
            return result.text
        failed = _FAILED.search(result.text)
        if failed is None:
            raise FlashRetryableError(f"the board's part failed with status {result.status}: {_last(result.text)}")
        kind: type[FlashError] = FlashRetryableError if failed[1].startswith(_PASSING) else FlashNonRetryableError
        raise kind(failed[1].strip())


class _Follower:
    """Follows what the board says while it works.

    Args:
        report: called with the bytes that are done.
        before: bytes that were done before.
        covered: bytes of the disk by the names of pieces, in the order in which they are written.
    """

    def __init__(self, report: Report, before: int = 0, covered: Mapping[str, int] | None = None) -> None:
        self._report = report
        self._most = self._before = before
        self._covered = list((covered or {}).items())
        self._last = 0
        self.stored: list[str] = []
        """Names of the pieces that are stored."""

    def __call__(self, text: str) -> None:
        self.stored += _DONE.findall(text)
        for match in _AT.finditer(text):
            at = int(match[1])
            if at <= self._last and self._covered:
                # The next piece begins.
                self._before += self._covered.pop(0)[1]
            self._last = at
            # Data and zeros are read back one after the other, so the numbers may fall back.
            self._most = max(self._most, self._before + at)
        if self._last:
            self._report(self._most)


def _covered(piece: Mapping[str, Any]) -> int:
    """Return the bytes of the disk that a piece is for."""
    return int(piece["size"]) + int(piece["zeros"])


def _last(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return "; ".join(lines[-3:]) or "it said nothing"


@cache
def sha256_of_zeros(length: int) -> str:
    """Return the SHA-256 of so many zeros."""
    digest, block = hashlib.sha256(), bytes(1 << 20)
    for _ in range(length >> 20):
        digest.update(block)
    digest.update(bytes(length & ((1 << 20) - 1)))
    return digest.hexdigest()
