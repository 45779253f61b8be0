"""Flashing and dumping end to end: files, compression, several images, URLs, and the commands."""

from __future__ import annotations

import gzip
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jumpstarter.client import FlasherClient, FlasherClientInterface
from jumpstarter.common.exceptions import ArgumentError
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, FlasherInterface, export


@dataclass(kw_only=True)
class Memory(FlasherInterface, Driver):
    """A device whose parts are bytes in memory."""

    parts: dict[str | None, bytes] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)

    @export
    async def flash(self, source: Any, target: str | None = None) -> int:
        self.handles.append(source)
        if source["kind"] == "presigned_request":
            return 0
        if target == "broken":
            raise OSError("flash is worn out")
        async with self.resource(source) as stream:
            self.parts[target] = b"".join([chunk async for chunk in stream])
        return len(self.parts[target])

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        self.handles.append(target)
        if target["kind"] == "presigned_request":
            return
        async with self.resource(target) as stream:
            content = self.parts[partition]
            for start in range(0, len(content), 100_000):
                await stream.send(content[start : start + 100_000])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.bin"
    path.write_bytes(bytes(range(256)) * 3000)
    return path


def test_image_is_flashed_and_dumped(image: Path, tmp_path: Path) -> None:
    memory = Memory()
    with serve(memory) as client:
        assert isinstance(client, FlasherClient)
        assert isinstance(client, FlasherClientInterface)
        assert client.flash(image) == image.stat().st_size
        client.dump(tmp_path / "copy.bin")
    assert memory.parts == {None: image.read_bytes()}
    assert (tmp_path / "copy.bin").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("keyword", ["target", "partition"])
def test_part_of_the_device_has_two_names(keyword: str, image: Path, tmp_path: Path) -> None:
    memory = Memory()
    with serve(memory) as client:
        client.flash(str(image), **{keyword: "emmc"})
        client.dump(str(tmp_path / "copy.bin"), **{keyword: "emmc"})
    assert list(memory.parts) == ["emmc"]
    assert (tmp_path / "copy.bin").read_bytes() == image.read_bytes()


def test_compressed_file_is_unpacked_by_the_exporter(image: Path, tmp_path: Path) -> None:
    packed = tmp_path / "image.bin.gz"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    memory = Memory()
    with serve(memory) as client:
        client.flash(packed, compression="gzip")
        client.dump(tmp_path / "copy.gz", compression="gzip")
    assert memory.parts == {None: image.read_bytes()}
    assert gzip.decompress((tmp_path / "copy.gz").read_bytes()) == image.read_bytes()


def test_several_images_are_flashed_in_order(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")
    memory = Memory()
    with serve(memory) as client:
        assert client.flash({"boot": image, "root": other}) == {"boot": image.stat().st_size, "root": 5}
    assert memory.parts == {"boot": image.read_bytes(), "root": b"other"}


def test_several_images_and_a_target_exclude_each_other(image: Path) -> None:
    memory = Memory()
    with serve(memory) as client, pytest.raises(ArgumentError, match="'target' parameter is not valid"):
        client.flash({"boot": image}, target="root")
    assert memory.parts == {}


def test_missing_image_is_told_before_anything_is_written(image: Path, tmp_path: Path) -> None:
    memory = Memory()
    with serve(memory) as client:
        with pytest.raises(FileNotFoundError, match=r"nothing\.bin' does not exist"):
            client.flash({"boot": image, "root": tmp_path / "nothing.bin"})
        with pytest.raises(FileNotFoundError, match="is no file"):
            client.flash(tmp_path)
    assert memory.parts == {}


def test_failure_of_the_device_comes_out_as_it_is(image: Path) -> None:
    from jumpstarter.client.core import DriverError

    with serve(Memory()) as client, pytest.raises(DriverError, match="flash is worn out"):
        client.flash(image, target="broken")


def test_urls_are_left_to_the_exporter(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    caplog.set_level(logging.WARNING)
    with serve(memory) as client:
        client.flash("https://example.org/image?signature=secret", compression="xz")
        client.dump("HTTP://example.org/dump")
    assert memory.handles == [
        {
            "kind": "presigned_request",
            "headers": {},
            "url": "https://example.org/image?signature=secret",
            "method": "GET",
        },
        {"kind": "presigned_request", "headers": {}, "url": "HTTP://example.org/dump", "method": "PUT"},
    ]
    assert "compression parameter is ignored" in caplog.text
    assert "secret" not in caplog.text


def run(client: Any, *arguments: str) -> Any:
    return CliRunner().invoke(client.cli(), arguments)


def test_commands_flash_and_dump(image: Path, tmp_path: Path) -> None:
    memory = Memory()
    with serve(memory) as client:
        assert isinstance(client.cli(), click.Group)
        assert run(client, "flash", str(image)).exit_code == 0
        assert run(client, "flash", str(image), "--partition", "a").exit_code == 0
        assert run(client, "flash", "-t", f"b:{image}", "-t", f"c:{image}").exit_code == 0
        assert run(client, "dump", str(tmp_path / "copy.bin"), "--target", "c").exit_code == 0
    assert list(memory.parts) == [None, "a", "b", "c"]
    assert (tmp_path / "copy.bin").read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["flash"], "FILE argument is required"),
        (["flash", "-t", "boot"], "Invalid target spec 'boot', expected name:file"),
        (["flash", "x", "-t", "a", "-t", "b"], "only one --target"),
        (["flash", "x", "--compression", "rar"], "'rar' is not one of"),
    ],
)
def test_commands_that_make_no_sense_are_usage_errors(arguments: list[str], expected: str) -> None:
    with serve(Memory()) as client:
        result = run(client, *arguments)
    assert result.exit_code == 2
    assert expected in result.output
