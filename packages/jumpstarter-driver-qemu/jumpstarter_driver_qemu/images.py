"""Disk images: what they are, how large, and that they refer to no other file of the exporter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jumpstarter.common.exceptions import JumpstarterException

FORMATS: Final = ("raw", "qcow2", "qcow", "vmdk")
"""Formats of disks that a machine may have."""

TIMEOUT: Final = 300.0
"""Seconds that qemu-img may take."""

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class ImageError(JumpstarterException, RuntimeError):
    """An image can't be made or changed as it was asked for."""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What qemu-img says of an image."""

    format: str
    virtual_size: int
    """Bytes of the disk that the guest sees."""


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `512M`, `20G` or `1.5g`; units are powers of 1024.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(text).lower())
    if match is None:
        raise ValueError(f"Invalid size {text!r}: expected a number with the unit k, m, g or t, such as 20G")
    size = int(float(match.group(1)) * _UNITS[match.group(2)])
    if size <= 0:
        raise ValueError(f"Invalid size {text!r}: it must be above 0")
    return size


def inspect(image: Path) -> ImageInfo:
    """Return format and size of a disk image that may come from anywhere.

    Raises:
        ValueError: its format is not one of FORMATS, or it takes content from another file; a guest could read any
            file of the exporter by that.
        ImageError: qemu-img is missing or fails.
    """
    info: dict[str, Any] = json.loads(_qemu_img("info", "--output=json", "-U", str(image)))
    image_format = str(info.get("format"))
    if image_format not in FORMATS:
        raise ValueError(f"the image has the format {image_format}; a disk must be one of {', '.join(FORMATS)}")
    data = (info.get("format-specific") or {}).get("data") or {}
    others = [info.get("backing-filename"), info.get("full-backing-filename"), data.get("data-file")]
    others += [extent.get("filename") for extent in data.get("extents", []) if extent.get("filename") != str(image)]
    for other in others:
        if other:
            raise ValueError(
                f"the image takes content from another file ({other}), which is not allowed. "
                "Make it self-contained first: qemu-img convert -O qcow2 IMAGE NEW"
            )
    return ImageInfo(format=image_format, virtual_size=int(info["virtual-size"]))


def create(image: Path, size: int, image_format: str = "qcow2") -> None:
    """Make an empty disk that takes no space."""
    _qemu_img("create", "-q", "-f", image_format, str(image), str(size))


def create_overlay(overlay: Path, base: Path, base_format: str) -> None:
    """Make a qcow2 image that takes its content from `base` and keeps what is written."""
    _qemu_img("create", "-q", "-f", "qcow2", "-F", base_format, "-b", str(base.resolve()), str(overlay))


def virtual_size(image: Path, image_format: str) -> int:
    """Return the bytes of the disk in an image of our own making."""
    info = json.loads(_qemu_img("info", "--output=json", "-U", "-f", image_format, str(image)))
    return int(info["virtual-size"])


def grow(image: Path, image_format: str, size: int) -> None:
    """Make a disk larger; nothing happens when it has that size already.

    Raises:
        ImageError: it is larger already, or the file system that it lies on has no room for it.
    """
    now = virtual_size(image, image_format)
    if size == now:
        return
    if size < now:
        raise ImageError(
            f"Shrinking disk is not supported: the image has {now} bytes, and {size} were asked for. "
            "Flash a smaller image, or ask for a larger disk"
        )
    free = shutil.disk_usage(image.parent).free
    if free < size - now:
        raise ImageError(
            f"Not enough disk space to grow the disk to {size} bytes: {free} bytes are free in {image.parent}"
        )
    _qemu_img("resize", "-q", "-f", image_format, str(image), str(size))


def convert_to_raw(image: Path, image_format: str, target: Path) -> None:
    """Write the whole content of a disk as a raw image."""
    _qemu_img("convert", "-q", "-U", "-f", image_format, "-O", "raw", str(image), str(target))


def _qemu_img(*arguments: str) -> str:
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageError("qemu-img not found on the exporter. Install it; on Debian: apt-get install qemu-utils")
    try:
        result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"qemu-img {arguments[0]} did not end within {TIMEOUT:g} s") from None
    if result.returncode != 0:
        raise ImageError(f"qemu-img {arguments[0]} failed: {result.stderr.strip()}")
    return result.stdout
