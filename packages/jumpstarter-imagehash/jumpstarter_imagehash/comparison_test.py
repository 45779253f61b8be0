"""Comparisons: pictures that are the same, nearly the same, others; what a failure leaves behind; real sources."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from PIL import Image, ImageDraw

from jumpstarter_imagehash import ImageHash

HERE = Path(__file__).parent
A, B = HERE / "test_image_a.jpeg", HERE / "test_image_b.jpeg"


class Source:
    """What shows one picture after the other, the last one for ever; None stands for a source without a picture."""

    name = "video"

    def __init__(self, *pictures: Any) -> None:
        self.pictures = [Image.open(each) if isinstance(each, Path) else each for each in pictures]
        self.looks = 0

    def snapshot(self) -> Image.Image:
        picture = self.pictures[min(self.looks, len(self.pictures) - 1)]
        self.looks += 1
        if picture is None:
            raise DriverError("no picture")
        return picture


def hashing(*pictures: Any, **options: Any) -> ImageHash:
    return ImageHash(Source(*pictures), **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: that is where pictures go by default."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestSame:
    def test_same_picture_passes(self) -> None:
        hashing(A).assert_snapshot(A, tolerance=0)

    def test_picture_that_was_compressed_and_scaled_passes(self, tmp_path: Path) -> None:
        Image.open(A).resize((200, 150)).save(tmp_path / "small.jpg", quality=40)

        hashing(tmp_path / "small.jpg").assert_snapshot(A)

    def test_relative_path_starts_at_the_working_directory(self, tmp_path: Path) -> None:
        (tmp_path / "here.jpeg").write_bytes(A.read_bytes())

        hashing(A).assert_snapshot("here.jpeg")

    def test_snapshot_is_that_of_the_client(self) -> None:
        picture = Image.open(A)
        assert hashing(picture).snapshot() is picture

    def test_hash_of_a_snapshot_has_the_size_asked_for(self) -> None:
        assert isinstance(hashing(A).hash_snapshot(), imagehash.ImageHash)
        assert hashing(A, hash_size=16).hash_snapshot().hash.shape == (16, 16)

    @pytest.mark.parametrize(
        "function",
        ["average_hash", "phash", "phash_simple", "dhash", "dhash_vertical", "whash", "colorhash"],
    )
    def test_every_function_of_imagehash_can_be_used(self, function: str) -> None:
        hashing(A, hash_func=getattr(imagehash, function)).assert_snapshot(A, tolerance=0)
        with pytest.raises(AssertionError):
            hashing(B, hash_func=getattr(imagehash, function)).assert_snapshot(A, tolerance=0)

    def test_difference_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "imagehash")
        difference, image = hashing(B)._snapshot_diff(A, imagehash.phash, 16)

        assert difference > 1
        assert image.size == Image.open(B).size
        assert f"differ by {difference}" in caplog.text


class TestOther:
    def test_other_picture_fails_and_says_where_to_look(self, elsewhere: Path) -> None:
        with pytest.raises(AssertionError) as caught:
            hashing(A).assert_snapshot(B)

        message = str(caught.value)
        assert "video does not show" in message
        assert "more than the tolerance of 1" in message
        assert f"seen:       {elsewhere}/FAILED_test_image_b.jpeg" in message
        assert f"difference: {elsewhere}/DIFF_test_image_b.png" in message
        assert Image.open(elsewhere / "FAILED_test_image_b.jpeg").size == Image.open(A).size

    def test_difference_is_red_where_the_pictures_differ(self, tmp_path: Path) -> None:
        plain = Image.new("RGB", (300, 200), "white")
        other = plain.copy()
        ImageDraw.Draw(other).rectangle((200, 0, 299, 199), fill="blue")
        plain.save(tmp_path / "plain.png")

        with pytest.raises(AssertionError):
            hashing(other).assert_snapshot(tmp_path / "plain.png")

        sheet = Image.open(tmp_path / "DIFF_plain.png")
        assert sheet.width > 3 * 300
        left = 3 * 8 + 2 * 300  # where the third part begins
        assert sheet.getpixel((left + 250, 100)) == (255, 64, 48)
        red, green, blue = sheet.getpixel((left + 50, 100))  # type: ignore[misc]
        assert red == green == blue

    def test_pictures_go_where_they_shall(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError):
            hashing(A, outdir=tmp_path / "new" / "folder").assert_snapshot(B)

        assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
            "FAILED_test_image_b.jpeg",
            "DIFF_test_image_b.png",
        }

    def test_picture_with_transparency_can_be_kept_as_jpeg(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError):
            hashing(Image.new("RGBA", (80, 60), (255, 0, 0, 9))).assert_snapshot(B)

        assert (tmp_path / "FAILED_test_image_b.jpeg").exists()

    def test_difference_of_pictures_of_other_sizes_is_made(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError):
            hashing(Image.new("RGB", (3000, 10))).assert_snapshot(B)

        assert Image.open(tmp_path / "DIFF_test_image_b.png").size[0] <= 3 * 960 + 32


class TestRegion:
    @pytest.fixture
    def clock(self, tmp_path: Path) -> tuple[Path, Image.Image]:
        """A picture with something in its corner that changes all the time, and one of another time."""
        reference = Image.open(A).convert("RGB")
        later = reference.copy()
        ImageDraw.Draw(later).rectangle((0, 0, later.width // 3, later.height // 3), fill="red")
        reference.save(tmp_path / "a.png")
        return tmp_path / "a.png", later

    def test_rest_of_the_picture_does_not_count(self, clock: tuple[Path, Image.Image]) -> None:
        path, later = clock
        width, height = later.size
        with pytest.raises(AssertionError):
            hashing(later, hash_size=16).assert_snapshot(path)

        hashing(later, hash_size=16).assert_snapshot(path, region=(width // 2, height // 2, width, height))

    @pytest.mark.parametrize("region", [(0, 0, 0, 10), (-1, 0, 10, 10), (10, 10, 5, 20), (0, 0, 99999, 10)])
    def test_region_outside_of_the_reference_is_an_error(self, region: tuple[int, int, int, int]) -> None:
        with pytest.raises(ValueError, match="is no part of a picture of"):
            hashing(A).assert_snapshot(A, region=region)


class TestWaiting:
    def test_picture_that_comes_in_time_passes(self) -> None:
        comparison = hashing(B, None, B, A)

        comparison.assert_snapshot(A, timeout=60, interval=0)

        assert comparison.client.looks == 4  # type: ignore[attr-defined]

    def test_picture_that_never_comes_fails(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"does not show .*, after 0.05 s"):
            hashing(B).assert_snapshot(A, timeout=0.05, interval=0.01)
        assert (tmp_path / "DIFF_test_image_a.png").exists()

    def test_source_that_never_has_a_picture_is_told_as_it_is(self) -> None:
        with pytest.raises(DriverError, match="no picture"):
            hashing(None).assert_snapshot(A, timeout=0.05, interval=0.01)

    def test_without_a_timeout_there_is_one_look(self) -> None:
        comparison = hashing(None, A)
        with pytest.raises(DriverError):
            comparison.assert_snapshot(A)
        assert comparison.client.looks == 1  # type: ignore[attr-defined]


class TestReference:
    def test_missing_reference_says_where_the_picture_of_now_is(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"copy it there if it is right") as caught:
            hashing(A).assert_snapshot("refs/login.png")

        assert f"{tmp_path}/refs/login.png" in str(caught.value)
        assert f"{tmp_path}/NEW_login.png" in str(caught.value)
        assert Image.open(tmp_path / "NEW_login.png").size == Image.open(A).size

    def test_file_that_is_no_picture_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="is no picture that can be read"):
            hashing(A).assert_snapshot(__file__)

    @pytest.mark.parametrize("options", [{"tolerance": -1}, {"timeout": -1}, {"interval": -1}])
    def test_negative_limits_are_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must not be negative"):
            hashing(A).assert_snapshot(A, **options)  # type: ignore[arg-type]


@pytest.mark.daemon
class TestRealSource:
    @pytest.fixture
    def camera(self, ustreamer: Any) -> Iterator[Any]:
        from jumpstarter_driver_video.driver import HttpVideo

        with serve(HttpVideo(url=f"{ustreamer.url}/stream")) as client:
            yield client

    def test_picture_of_a_driver_is_compared(self, camera: Any, tmp_path: Path) -> None:
        comparison = ImageHash(camera)
        camera.snapshot().save(tmp_path / "now.png")

        comparison.assert_snapshot(tmp_path / "now.png")
        with pytest.raises(AssertionError, match="DIFF_test_image_a"):
            comparison.assert_snapshot(A)
