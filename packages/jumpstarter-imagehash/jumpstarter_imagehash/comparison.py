"""Comparing what a camera or a screen shows with a reference picture, by perceptual hashes."""

from __future__ import annotations

import inspect
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagehash
from jumpstarter.client.core import DriverError
from PIL import Image, UnidentifiedImageError

from .difference import comparison_picture

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient

logger = logging.getLogger("imagehash")

Region = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, in pixels of the reference."""

REFERENCE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Formats that a picture is saved in when its reference has them; others become PNG."""


@dataclass
class ImageHash:
    """Compares what `client` shows with reference pictures.

    A hash keeps what a picture looks like and drops noise, small shifts of colour and compression. Two pictures differ
    by the number of bits in which their hashes do, of `hash_size` squared.
    """

    client: DriverClient
    """Anything with `snapshot()`, which returns a PIL image, and `name`: a video or VNC driver's client."""
    outdir: Path = field(default_factory=Path.cwd)
    """Where pictures of failed comparisons go; it is made when it doesn't exist."""
    hash_func: Any = imagehash.average_hash
    """A function of the module imagehash: average_hash, phash, dhash, whash, colorhash, crop_resistant_hash, ..."""
    hash_size: int = 8
    """Bits per side of the hash, for the functions that take it."""

    def snapshot(self) -> Image.Image:
        """Return what the client shows now."""
        return self.client.snapshot()  # type: ignore[attr-defined]

    def hash_snapshot(self) -> Any:
        """Return the hash of what the client shows now."""
        return self._hash(self.snapshot())

    def assert_snapshot(
        self,
        reference_img_file: str | os.PathLike[str],
        tolerance: float = 1,
        *,
        region: Region | None = None,
        timeout: float = 0,
        interval: float = 0.5,
    ) -> None:
        """Fail unless the client shows what the reference picture does.

        Args:
            reference_img_file: the picture; a relative path starts at the working directory.
            tolerance: bits by which the hashes may differ.
            region: compare this part only; a picture of another size is scaled to that of the reference before.
            timeout: seconds to wait until it does. While waiting, a source without a picture is one that differs.
            interval: seconds between two looks.

        Raises:
            AssertionError: it differs. `FAILED_<name>` in `outdir` is what was seen; `DIFF_<name>.png` has reference,
                picture and difference side by side.
            FileNotFoundError: there is no such reference; `NEW_<name>` in `outdir` is what was seen.
            ValueError: the reference is no picture, or an argument is out of range.
            DriverError: the client has no picture.
        """
        __tracebackhide__ = True  # pytest shows the line of the test, and the message
        if tolerance < 0 or timeout < 0 or interval < 0:
            raise ValueError(
                f"tolerance, timeout and interval must not be negative: {tolerance}, {timeout}, {interval}"
            )
        deadline = time.monotonic() + timeout
        while True:
            last_look = time.monotonic() >= deadline
            try:
                difference, image = self._compare(Path(reference_img_file), region)
                if difference <= tolerance:
                    return
                if last_look:
                    self._fail(Path(reference_img_file), image, difference, tolerance, region, timeout)
            except DriverError:
                if last_look:
                    raise
            time.sleep(min(interval, max(0.0, deadline - time.monotonic())))

    def _snapshot_diff(
        self,
        reference_img_file: str | os.PathLike[str],
        hash_func: Any = imagehash.average_hash,
        hash_size: int = 8,
    ) -> tuple[Any, Image.Image]:
        """Return by how much the client's picture differs from the reference, and that picture.

        The function and size of the object count; the parameters are there for callers that give them.
        """
        return self._compare(Path(reference_img_file), None)

    def _compare(self, path: Path, region: Region | None) -> tuple[Any, Image.Image]:
        __tracebackhide__ = True
        image = self.snapshot()
        reference = self._reference(path, image)
        expected, seen = self._hash(part(reference, region, reference)), self._hash(part(image, region, reference))
        difference = expected - seen
        logger.info("%s against %s: %s and %s differ by %s", self.client.name, path, expected, seen, difference)
        return difference, image

    def _reference(self, path: Path, image: Image.Image) -> Image.Image:
        __tracebackhide__ = True
        try:
            with Image.open(path) as reference:
                reference.load()
                return reference
        except FileNotFoundError:
            saved = self._save(image, "NEW_", path)
            raise FileNotFoundError(
                f"there is no reference picture {path.absolute()}. What {self.client.name} shows now is in {saved}: "
                "copy it there if it is right"
            ) from None
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"the reference {path} is no picture that can be read: {error}") from None

    def _hash(self, image: Image.Image) -> Any:
        try:
            takes_size = "hash_size" in inspect.signature(self.hash_func).parameters
        except (TypeError, ValueError):
            takes_size = True
        # colorhash and crop_resistant_hash have no such parameter.
        return self.hash_func(image, hash_size=self.hash_size) if takes_size else self.hash_func(image)

    def _fail(
        self, path: Path, image: Image.Image, difference: Any, tolerance: float, region: Region | None, timeout: float
    ) -> None:
        __tracebackhide__ = True
        seen = self._save(image, "FAILED_", path)
        compared = self.outdir / f"DIFF_{path.stem}.png"
        comparison_picture(self._reference(path, image), image, region).save(compared)
        waited = f", after {timeout:g} s" if timeout else ""
        name = getattr(self.hash_func, "__name__", str(self.hash_func))
        message = (
            f"{self.client.name} does not show {path}{waited}: the difference is {difference} bits of "
            f"{self.hash_size**2} ({name}), more than the tolerance of {tolerance:g}\n"
            f"  seen:       {seen}\n"
            f"  difference: {compared.absolute()}"
        )
        logger.error("%s", message)
        raise AssertionError(message)

    def _save(self, image: Image.Image, prefix: str, path: Path) -> Path:
        """Write a picture next to others of failed comparisons; return where."""
        self.outdir = Path(self.outdir)
        self.outdir.mkdir(parents=True, exist_ok=True)
        target = self.outdir / f"{prefix}{path.name}"
        if target.suffix.lower() not in REFERENCE_SUFFIXES:
            target = target.with_name(f"{target.name}.png")
        if target.suffix.lower() in (".jpg", ".jpeg", ".bmp"):
            image = image.convert("RGB")
        image.save(target)
        return target.absolute()


def part(image: Image.Image, region: Region | None, reference: Image.Image) -> Image.Image:
    """Return the part of a picture that is compared.

    Raises:
        ValueError: the region is none of the reference.
    """
    if region is None:
        return image
    left, top, right, bottom = region
    if not (0 <= left < right <= reference.width and 0 <= top < bottom <= reference.height):
        raise ValueError(f"region {region} is no part of a picture of {reference.width} by {reference.height} pixels")
    return fitted(image, reference).crop(region)


def fitted(image: Image.Image, reference: Image.Image) -> Image.Image:
    """Return a picture in the size of the reference."""
    return image if image.size == reference.size else image.resize(reference.size)
