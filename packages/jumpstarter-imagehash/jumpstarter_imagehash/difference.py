"""One picture that shows a reference, what was seen instead, and where the two differ."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageChops, ImageDraw

MAX_PANEL: Final = (960, 720)
"""Pixels that each of the three parts has at most."""

MARGIN: Final = 8
CAPTION: Final = 20
THRESHOLD: Final = 24
"""Difference of brightness, of 255, from which on a pixel counts as another one; compression makes smaller ones."""

BACKGROUND: Final = (29, 31, 33)
TEXT: Final = (238, 238, 238)
MARK: Final = (255, 64, 48)
FRAME: Final = (255, 208, 0)


def comparison_picture(
    reference: Image.Image, seen: Image.Image, region: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """Return reference, picture and difference side by side.

    The difference is the reference in gray, with what was seen otherwise in red. A picture of another size is scaled to
    that of the reference for it. `region` is framed.
    """
    expected = reference.convert("RGB")
    actual = seen.convert("RGB")
    panels = [
        (f"reference {expected.width}x{expected.height}", framed(expected, region)),
        (f"seen {actual.width}x{actual.height}", framed(actual.resize(expected.size), region)),
        ("difference", framed(marked(expected, actual.resize(expected.size)), region)),
    ]
    scaled = [(caption, shrunk(panel)) for caption, panel in panels]
    width, height = scaled[0][1].size
    sheet = Image.new("RGB", (3 * width + 4 * MARGIN, height + CAPTION + 2 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (caption, panel) in enumerate(scaled):
        left = MARGIN + index * (width + MARGIN)
        draw.text((left, MARGIN), caption, fill=TEXT)
        sheet.paste(panel, (left, MARGIN + CAPTION))
    return sheet


def marked(expected: Image.Image, actual: Image.Image) -> Image.Image:
    """Return a picture in dim gray, with red where the other one differs."""
    difference = ImageChops.difference(expected, actual)
    red, green, blue = difference.split()
    strongest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    mask = strongest.point(lambda value: 255 if value > THRESHOLD else 0)
    dim = expected.convert("L").point(lambda value: 40 + value // 3).convert("RGB")
    dim.paste(Image.new("RGB", dim.size, MARK), mask=mask)
    return dim


def framed(image: Image.Image, region: tuple[int, int, int, int] | None) -> Image.Image:
    """Return a picture with a frame around a part of it."""
    if region is None:
        return image
    left, top, right, bottom = region
    copy = image.copy()
    ImageDraw.Draw(copy).rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=2)
    return copy


def shrunk(image: Image.Image) -> Image.Image:
    """Return a picture that is no larger than MAX_PANEL."""
    copy = image.copy()
    copy.thumbnail(MAX_PANEL)
    return copy
