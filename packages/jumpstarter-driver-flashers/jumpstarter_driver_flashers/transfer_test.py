"""Images get to the exporter once, whole, and by themselves: from this machine, web servers, registries, operators."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.common.exceptions import ArgumentError
from jumpstarter_driver_opendal.images import download as download_module
from jumpstarter_driver_opendal.images.conftest import file_server
from jumpstarter_testbench.oci_registry import OciRegistry

from .arguments import Job, Options, read_block_map
from .conftest import MIB, image_content
from .driver import BaseFlasher
from .driver_test import flasher, serving
from .errors import FlashNonRetryableError
from .progress import Display
from .transfer import Transfers


def transfer(client: Any, path: Any, **job: Any) -> dict[str, Any]:
    """Have one image on the exporter; return what is known of it."""
    options = Options(**{name: job.pop(name) for name in ("headers", "plain_http", "cacert") if name in job})
    work = Job(path=path, **job)
    display = Display(logging.getLogger("test"), terminal=False)
    with display, Transfers(client, [work], options, display) as transfers:
        return transfers.wait(work)


def disk(client: Any, folder: Path, image: dict[str, Any]) -> bytes:
    """Return what a board would write for an image."""
    offered = client.image_host.offer(image["key"])
    content = bytearray(int(offered["size"]))
    for piece in offered["pieces"]:
        data = (folder / "http" / offered["path"] / piece["name"]).read_bytes()
        for line in (folder / "http" / offered["path"] / f"{piece['name']}.ops").read_text().splitlines():
            kind, size, seek, count, _ = line.split()
            length, offset = int(size) * int(count), int(size) * int(seek)
            if kind == "d":
                content[offset : offset + length], data = data[:length], data[length:]
        assert not data
    return bytes(content)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    with serving(flasher(tmp_path)) as client:
        yield client


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(image_content())
    return path


class Sent(logging.Handler):
    """Counts what the log says was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def log() -> Iterator[Sent]:
    handler = Sent()
    logger = logging.getLogger("test")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_local_image_is_sent_once(client: Any, image: Path, tmp_path: Path, log: Sent):
    first = transfer(client, image)
    assert disk(client, tmp_path, first) == image_content()
    assert "sending disk.img" in log
    log.lines.clear()
    assert transfer(client, image)["key"] == first["key"]
    assert "disk.img is in the exporter's cache" in log
    assert "sending" not in log


def test_image_is_found_by_its_content_whatever_it_is_called(client: Any, image: Path, log: Sent):
    first = transfer(client, str(image))
    other = image.with_name("copy.img")
    other.write_bytes(image.read_bytes())
    log.lines.clear()
    assert transfer(client, other)["key"] == first["key"]
    assert "sending" not in log


def test_image_is_found_by_the_next_session(tmp_path: Path, image: Path, log: Sent):
    for _ in range(2):
        with serving(flasher(tmp_path)) as client:
            log.lines.clear()
            transfer(client, image)
    assert "is in the exporter's cache" in log


def test_other_image_of_the_same_size_is_sent(client: Any, image: Path, tmp_path: Path):
    transfer(client, image)
    image.write_bytes(image_content(seed=2))
    assert disk(client, tmp_path, transfer(client, image)) == image_content(seed=2)


def test_transfer_that_broke_goes_on(client: Any, image: Path, tmp_path: Path, log: Sent, monkeypatch: Any):
    from . import transfer as module

    real = module._Counted.read

    def failing(self: Any, size: int) -> bytes:
        if self._done >= 5 * MIB:
            raise OSError(5, "Input/output error")
        return real(self, size)

    monkeypatch.setattr(module._Counted, "read", failing)
    with pytest.raises(FlashNonRetryableError, match=r"step 'image': reading the image failed after \d+ bytes"):
        transfer(client, image)
    monkeypatch.undo()
    found = transfer(client, image)
    assert "going on with a transfer that broke" in log
    assert disk(client, tmp_path, found) == image_content()


def test_transfer_does_not_go_on_with_another_file(client: Any, image: Path, tmp_path: Path, monkeypatch: Any):
    from . import transfer as module

    status = os.stat(image)
    monkeypatch.setattr(module._Counted, "read", _broken_after(module._Counted.read, 5 * MIB))
    with pytest.raises(FlashNonRetryableError):
        transfer(client, image)
    monkeypatch.undo()
    image.write_bytes(image_content(seed=2))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert disk(client, tmp_path, transfer(client, image)) == image_content(seed=2)


def _broken_after(real: Any, limit: int) -> Any:
    def read(self: Any, size: int) -> bytes:
        if self._done >= limit:
            raise OSError(5, "Input/output error")
        return bytes(real(self, size))

    return read


@pytest.mark.parametrize("right", [True, False])
def test_check_sum_of_a_local_image_is_checked(client: Any, image: Path, right: bool):
    sha256 = hashlib.sha256(image_content()).hexdigest() if right else "0" * 64
    if right:
        assert transfer(client, image, sha256=sha256)["sha256"] == sha256
    else:
        with pytest.raises(FlashNonRetryableError, match=r"has the SHA-256 .* not 0000"):
            transfer(client, image, sha256=sha256)


def test_damaged_image_is_told_in_the_step_of_the_image(client: Any, image: Path):
    image.write_bytes(gzip.compress(image_content())[:-1000])
    with pytest.raises(FlashNonRetryableError, match=r"step 'image': .*cut short"):
        transfer(client, image)


def test_missing_image_is_told(client: Any, tmp_path: Path):
    with pytest.raises(FlashNonRetryableError, match=r"step 'image': can't read the image .*nothing.img"):
        transfer(client, tmp_path / "nothing.img")


@pytest.mark.need("bmap-tools")
def test_block_map_beside_the_image_is_found_and_used(client: Any, image: Path, tmp_path: Path):
    holes = tmp_path / "sparse.img"
    with holes.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(MIB)
        file.write(image_content()[:MIB])
    subprocess.run(["bmaptool", "create", "-o", f"{holes}.bmap", holes], check=True, timeout=30)
    packed = tmp_path / "sparse.img.gz"
    packed.write_bytes(gzip.compress(holes.read_bytes()))
    block_map = read_block_map(packed, None)
    assert block_map is not None
    found = transfer(client, packed, block_map=block_map)
    assert (found["format"], found["compression"], found["covered"]) == ("bmap", "gzip", float(MIB))
    assert found["size"] == 8 * MIB


def test_block_map_is_not_looked_for_when_it_is_not_wanted(image: Path):
    image.with_name("disk.img.bmap").write_text("x")
    assert read_block_map(image, None) == b"x"
    assert read_block_map(image, False) is None
    with pytest.raises(ArgumentError, match="can't read the block map"):
        read_block_map(image, "/nowhere.bmap")


@contextmanager
def web_server(files: dict[str, bytes], etag: str | None = '"v1"') -> Iterator[Any]:
    """A file server in a thread of its own."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(file_server()) as server:
        server.files.update(files)
        if etag:
            server.etags.update(dict.fromkeys(files, etag))
        yield server


def test_url_is_fetched_by_the_exporter_once(client: Any, tmp_path: Path, log: Sent):
    with web_server({"a/disk.img.gz": gzip.compress(image_content())}) as server:
        url = f"{server.url}/a/disk.img.gz"
        assert disk(client, tmp_path, transfer(client, url)) == image_content()
        assert "fetching disk.img.gz" in log
        log.lines.clear()
        transfer(client, url)
        assert "disk.img.gz is in the exporter's cache" in log


def test_headers_reach_the_server_of_the_image(client: Any):
    with web_server({"disk.img": image_content()}) as server:
        transfer(client, f"{server.url}/disk.img", headers={"Authorization": "Bearer abc"})
        assert server.requests[0]["Authorization"] == "Bearer abc"


def test_transfer_from_a_server_that_breaks_off_goes_on(client: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(download_module, "RETRY_PAUSE", 0.01)
    with web_server({"disk.img": image_content()}) as server:
        server.cut = [3 * MIB]
        assert disk(client, tmp_path, transfer(client, f"{server.url}/disk.img")) == image_content()


@pytest.mark.parametrize(
    ("name", "wanted", "words"), [("other", {}, "404"), ("disk.img", {"sha256": "0" * 64}, "SHA-256")]
)
def test_url_that_can_not_be_used_is_told_without_its_query(client: Any, name: str, wanted: Any, words: str):
    with (
        web_server({"disk.img": image_content()}) as server,
        pytest.raises(FlashNonRetryableError, match=f"step 'image': .*{words}") as caught,
    ):
        transfer(client, f"{server.url}/{name}?secret=1", **wanted)
    assert "secret=1" not in str(caught.value)


def test_image_in_a_registry_is_fetched(client: Any, tmp_path: Path, oci_registry: OciRegistry):
    oci_registry.push("org/disk", "v1", {"disk.img.gz": gzip.compress(image_content())})
    url = f"oci://{oci_registry.address}/org/disk:v1"
    assert disk(client, tmp_path, transfer(client, url, plain_http=True)) == image_content()
    with pytest.raises(FlashNonRetryableError, match="Can the exporter reach the registry"):
        transfer(client, url)


def test_image_of_an_operator_is_sent(client: Any, tmp_path: Path):
    from opendal import Operator

    memory = Operator("memory")
    memory.write("images/disk.img", image_content())
    found = transfer(client, "images/disk.img", operator=memory)
    assert disk(client, tmp_path, found) == image_content()
    with pytest.raises(FlashNonRetryableError, match="of the operator"):
        transfer(client, "images/other.img", operator=memory)


def test_ending_a_flash_ends_its_transfers(client: Any, image: Path, monkeypatch: Any):
    from . import transfer as module

    reading, go_on = threading.Event(), threading.Event()

    def waiting(self: Any, size: int) -> bytes:
        reading.set()
        go_on.wait(30)
        return b""

    monkeypatch.setattr(module._Counted, "read", waiting)
    work = Job(path=image)
    display = Display(logging.getLogger("test"), terminal=False)
    transfers = Transfers(client, [work], Options(), display)
    with display, transfers:
        assert reading.wait(30)
        assert not transfers.is_done(work)
        threading.Timer(0.2, go_on.set).start()
    assert transfers.is_done(work)


class OldFlasher(BaseFlasher):
    """The flasher of an exporter that can't take images itself."""

    image_find = None  # type: ignore[assignment]
    image_receive = None  # type: ignore[assignment]
    image_fetch = None  # type: ignore[assignment]


def test_exporter_that_takes_no_images_gets_the_pieces(tmp_path: Path, image: Path, monkeypatch: Any):
    from . import driver_test

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "client"))
    monkeypatch.setattr(driver_test, "BaseFlasher", OldFlasher)
    with serving(flasher(tmp_path)) as client:
        found = transfer(client, image)
        offered = client.image_host.offer(found["key"])
        assert (tmp_path / "http" / offered["path"] / "00000").stat().st_size == found["data"]
        assert disk(client, tmp_path, found) == image_content()
        client.image_host.withdraw(offered["path"])
        assert not (tmp_path / "http" / offered["path"]).exists()
