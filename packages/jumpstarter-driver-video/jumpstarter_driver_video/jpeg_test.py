"""Sizes of JPEG files, of every kind that cameras make."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from .conftest import picture
from .jpeg import dimensions


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 5}, {"exif": b"Exif\0\0" + bytes(200)}])
def test_size_is_found(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (321, 123)).save(buffer, "JPEG", **options)

    assert dimensions(buffer.getvalue()) == (321, 123)


def test_fill_bytes_between_markers_are_skipped() -> None:
    data = picture(size=(9, 8))

    assert dimensions(data[:2] + b"\xff\xff" + data[2:]) == (9, 8)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8garbage and more of it", picture()[:100]])
def test_what_has_no_size_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        dimensions(data)
