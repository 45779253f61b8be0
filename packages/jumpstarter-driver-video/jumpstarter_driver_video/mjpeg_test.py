"""Motion JPEG as cameras send it: framed in many ways, cut into packets anywhere."""

from __future__ import annotations

import pytest

from .common import MAX_PICTURE
from .conftest import picture
from .mjpeg import MAX_HEADERS, MjpegError, MjpegReader, boundary_of

ONE, TWO = picture("red"), picture("blue", (32, 16))


def part(data: bytes, delimiter: str, *, length: int | None = None, end: str = "\r\n", tail: str = "\r\n") -> bytes:
    headers = f"{delimiter}{end}Content-Type: image/jpeg{end}"
    if length is not None:
        headers += f"Content-Length: {length}{end}"
    return headers.encode() + end.encode() + data + tail.encode()


def frames(boundary: str | None, body: bytes, size: int) -> list[bytes]:
    reader = MjpegReader(boundary)
    return [frame for start in range(0, len(body), size) for frame in reader.feed(body[start : start + size])]


END = b"--abcdef--\r\n"


def both(delimiter: str, **options: str) -> list[bytes]:
    """Both pictures, each with its length."""
    return [part(each, delimiter, length=len(each), **options) for each in (ONE, TWO)]  # type: ignore[arg-type]


FORMS = {
    "by the standard": ("frame", both("--frame")),
    "dashes in the parameter and in the delimiter": ("--frame", both("----frame")),
    "dashes in the parameter alone": ("--frame", both("--frame")),
    "no parameter": (None, [b"\r\n", *both("--cam")]),
    "bare line feeds": ("x", both("--x", end="\n", tail="\n")),
    "no line break before the delimiter": ("abcdef", both("--abcdef", tail="")),
    "without lengths": ("abcdef", [part(ONE, "--abcdef"), part(TWO, "--abcdef"), END]),
    "lengths that are too small": ("abcdef", [part(ONE, "--abcdef", length=20), part(TWO, "--abcdef", length=5), END]),
    "a length that is too large": (
        "abcdef",
        [part(ONE, "--abcdef", length=len(ONE) + 7), part(TWO, "--abcdef"), END],
    ),
    "text between the pictures": (
        "abcdef",
        [part(ONE, "--abcdef"), part(b"not a picture", "--abcdef"), part(TWO, "--abcdef"), END],
    ),
    "padding behind a picture": (
        "abcdef",
        [part(each + b"\0\0\0", "--abcdef", length=len(each) + 3) for each in (ONE, TWO)],
    ),
    "a preamble": ("abcdef", [b"hello\r\n", *both("--abcdef")]),
}


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
def test_every_picture_is_found(form: str, size: int) -> None:
    boundary, pieces = FORMS[form]

    found = frames(boundary, b"".join(pieces), size)

    assert [frame.rstrip(b"\0") for frame in found] == [ONE, TWO]


def test_a_picture_with_a_length_does_not_wait_for_the_next_one() -> None:
    reader = MjpegReader("frame")

    assert list(reader.feed(part(ONE, "--frame", length=len(ONE), tail=""))) == [ONE]


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/x-mixed-replace;boundary=boundarydonotcross", "boundarydonotcross"),
        ('multipart/x-mixed-replace; charset=x; boundary="a b"', "a b"),
        ("Multipart/X-Mixed-Replace; BOUNDARY=--x", "--x"),
        ("multipart/x-mixed-replace", None),
        ("multipart/x-mixed-replace; boundary=", None),
        ("", None),
    ],
)
def test_boundary_is_read_from_the_content_type(header: str, boundary: str | None) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    ("boundary", "body"),
    [
        ("frame", b"x" * (MAX_HEADERS + 1)),
        (None, b"x" * (MAX_HEADERS + 1)),
        (None, b"<html>\r\nnot a stream</html>\r\n"),
        ("frame", b"--frame\r\n" + b"X: y\r\n" * MAX_HEADERS),
    ],
)
def test_what_is_no_motion_jpeg_is_refused_within_bounds(boundary: str | None, body: bytes) -> None:
    with pytest.raises(MjpegError):
        frames(boundary, body, 4096)


def test_a_part_without_an_end_is_refused_within_bounds() -> None:
    reader = MjpegReader("frame")
    list(reader.feed(b"--frame\r\n\r\n\xff\xd8"))
    piece = bytes(1 << 20)

    for _ in range(MAX_PICTURE // len(piece) - 1):
        list(reader.feed(piece))
    with pytest.raises(MjpegError, match="larger than"):
        list(reader.feed(piece + piece))
