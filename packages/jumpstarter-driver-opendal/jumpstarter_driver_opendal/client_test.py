"""Flashers, storage muxes, sources of all kinds and the `j` commands, end to end."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ArgumentError, JumpstarterException
from jumpstarter.common.utils import serve
from opendal import AsyncOperator, Operator

from .adapter import OpendalAdapter, TransferError
from .client import FlasherClient, clean_filename, operator_for_path
from .driver import MockFlasher, MockStorageMux, MockStorageMuxFlasher, Opendal
from .sources import BytesIOStream


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom((2 << 20) + 13))
    return path


@pytest.fixture
def flasher():
    with serve(MockFlasher()) as client:
        yield client


@pytest.fixture
def mux():
    with serve(MockStorageMuxFlasher()) as client:
        yield client


@pytest.fixture
def storage(tmp_path):
    with serve(Opendal(scheme="fs", kwargs={"root": str(tmp_path / "root")})) as client:
        yield client


def compressed(data: bytes, compression: str) -> bytes:
    if compression == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.compress(data)
    return {"gzip": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[compression](data)


# -- flashers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keywords", [{}, {"partition": "root"}, {"target": "root"}, {"target": "r", "partition": "r"}])
def test_what_was_flashed_is_dumped(flasher, image, tmp_path, keywords):
    flasher.flash(image, **keywords)
    flasher.dump(tmp_path / "dump", **keywords)
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()


def test_several_images_are_flashed_to_their_targets(flasher, image, tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    assert flasher.flash({"a": image, "b": str(tmp_path / "other")}) == {"a": None, "b": None}
    flasher.dump(tmp_path / "dump", target="b")
    assert (tmp_path / "dump").read_bytes() == b"other"


@pytest.mark.parametrize("compression", ["gzip", "xz", "bz2", "zstd"])
def test_compressed_images_are_flashed_and_dumped_as_plain_bytes(flasher, image, tmp_path, compression):
    packed = tmp_path / "packed"
    packed.write_bytes(compressed(image.read_bytes(), compression))
    flasher.flash(packed, compression=compression)
    flasher.dump(tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == image.read_bytes()
    flasher.dump(tmp_path / "again", compression=compression)
    flasher.flash(tmp_path / "again", compression=compression)
    flasher.dump(tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == image.read_bytes()


def test_a_compressed_image_that_is_cut_short_is_refused(flasher, image, tmp_path):
    flasher.flash(image)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(image.read_bytes())[:-1000])
    with pytest.raises(DriverError, match="cut short"):
        flasher.flash(packed, compression="gzip")
    flasher.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (["missing"], {}, "can't read the local file 'missing'"),
        ([{"a": "missing"}], {}, "can't read the local file 'missing'"),
        ([{}], {}, "nothing to flash"),
        ([{"a": "x"}], {"target": "a"}, "names the targets itself"),
        (["x"], {"target": "a", "partition": "b"}, "two names for one thing"),
        (["x"], {"operator": {"a": None}}, "needs a mapping of images"),
        (["x"], {"compression": "zip"}, "unknown compression 'zip'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_happens(flasher, arguments, keywords, message):
    with mock.patch.object(FlasherClient, "call") as call, pytest.raises(ArgumentError, match=message):
        flasher.flash(*arguments, **keywords)
    call.assert_not_called()


def test_dumping_what_was_never_flashed_is_an_error_and_leaves_no_file(flasher, tmp_path):
    with pytest.raises(DriverError, match="nothing was flashed"):
        flasher.dump(tmp_path / "dump")
    assert list(tmp_path.iterdir()) == []


def test_a_partition_name_can_not_lead_elsewhere(flasher, image):
    with pytest.raises(DriverError, match="no plain name"):
        flasher.flash(image, partition="../../etc/passwd")


def test_an_image_above_the_limit_is_refused(image):
    with serve(MockFlasher(max_size=1000)) as client, pytest.raises(DriverError, match="larger than the 1000 bytes"):
        client.flash(image)


# -- storage muxes ---------------------------------------------------------------------------------


def test_flashing_a_mux_writes_on_the_host_and_then_gives_the_medium_to_the_device(mux, image):
    with mock.patch.object(type(mux), "call") as call:
        mux.flash(image)
    assert call.call_args_list == [mock.call("host"), mock.call("write", mock.ANY), mock.call("dut")]


def test_dumping_a_mux_reads_on_the_host_and_then_gives_the_medium_to_the_device(mux, tmp_path):
    with mock.patch.object(type(mux), "call") as call:
        mux.dump(tmp_path / "dump")
    assert call.call_args_list == [mock.call("host"), mock.call("read", mock.ANY), mock.call("dut")]
    assert list(tmp_path.iterdir()) == []


def test_a_device_gets_its_medium_back_also_when_reading_it_failed(mux, tmp_path):
    def answer(method, *_):
        if method == "read":
            raise DriverError("no medium")

    with mock.patch.object(type(mux), "call", side_effect=answer) as call, pytest.raises(DriverError):
        mux.dump(tmp_path / "dump")
    assert call.call_args_list == [mock.call("host"), mock.call("read", mock.ANY), mock.call("dut")]


def test_a_device_never_gets_half_a_medium(mux, image):
    def answer(method, *_):
        if method == "write":
            raise DriverError("card removed")

    with (
        mock.patch.object(type(mux), "call", side_effect=answer) as call,
        pytest.raises(JumpstarterException, match=r"stays connected to the exporter.*card removed"),
    ):
        mux.flash(image)
    assert mock.call("dut") not in call.call_args_list


def test_what_was_flashed_to_a_mux_is_dumped(mux, image, tmp_path):
    mux.flash(image)
    mux.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("keyword", ["target", "partition"])
def test_a_mux_has_no_parts(mux, image, keyword):
    with pytest.raises(ArgumentError, match="without parts"):
        mux.flash(image, **{keyword: "root"})
    with pytest.raises(ArgumentError, match="without parts"):
        mux.dump("x", **{keyword: "root"})
    with pytest.raises(ArgumentError, match="single image"):
        mux.flash({"root": image})


def test_local_files_are_written_to_and_read_from_a_mux_by_any_path(image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(MockStorageMux()) as client:
        client.host()
        for path in (str(image), "image", "./image", image):
            client.write_local_file(path)
            client.read_local_file("back")
            assert (tmp_path / "back").read_bytes() == image.read_bytes()
        client.write_file(Operator("fs", root=str(tmp_path)), "image")
        client.read_file(Operator("fs", root=str(tmp_path)), "back2")
        assert (tmp_path / "back2").read_bytes() == image.read_bytes()
        client.dut()
        client.off()


# -- URLs and operators ----------------------------------------------------------------------------


@pytest.fixture
def web(image):
    """A web server with the image at /image?key=a%40b, nothing elsewhere; yields its URL and its log."""
    log: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            if self._answer():
                self.wfile.write(image.read_bytes())

        def _answer(self) -> bool:
            log.append((self.command, self.path))
            found = self.path.partition("?")[0] == "/image"
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/image?key=a%40b")
            else:
                self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(image.read_bytes()) if found else 0))
            self.end_headers()
            return found

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", log
        server.shutdown()
        thread.join()


def test_the_exporter_fetches_a_url_itself_and_unchanged(flasher, web, image, tmp_path):
    url, log = web
    flasher.flash(f"{url}/image?key=a%40b")
    assert log == [("GET", "/image?key=a%40b")]
    flasher.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()


def test_storage_and_muxes_take_urls_and_follow_redirects(storage, web, image, tmp_path):
    url, _ = web
    storage.write_from_path("image", f"{url}/moved")
    assert storage.read_bytes("image") == image.read_bytes()
    with serve(MockStorageMux()) as mux:
        mux.write_local_file(f"{url}/image")
        mux.read_local_file(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_a_url_that_does_not_exist_leaves_nothing_behind(storage, web, tmp_path):
    url, _ = web
    with pytest.raises(DriverError, match="404"):
        storage.write_from_path("image", f"{url}/missing?secret=1")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_url_can_be_fetched_by_the_client_instead(storage, flasher, web, image, tmp_path):
    url, log = web
    with mock.patch.dict(os.environ, {"JMP_PRESIGNED_HOSTS": "nowhere.example"}):
        with pytest.raises(DriverError, match="not among those"):
            flasher.flash(f"{url}/image?key=a%40b")
        assert log == []
        flasher.flash(f"{url}/image?key=a%40b", via_client=True)
        run(storage, "write-from-path", "file", f"{url}/moved", "--via-client")
        run(flasher, "flash", f"{url}/image", "--via-client")
    assert log[0] == ("GET", "/image?key=a%40b")
    assert storage.read_bytes("file") == image.read_bytes()
    flasher.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()


def test_a_compressed_url_keeps_its_query_and_is_unpacked(flasher, web, image, tmp_path):
    url, log = web
    plain = image.read_bytes()
    image.write_bytes(gzip.compress(plain))
    flasher.flash(f"{url}/image?key=a%40b", compression="gzip")
    assert log == [("GET", "/image?key=a%40b")]
    flasher.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == plain


def test_a_url_that_the_client_can_not_fetch_is_told_without_its_query(storage, web, tmp_path):
    url, _ = web
    with pytest.raises(TransferError, match=r"can't fetch http://\S+/missing: .*404") as caught:
        storage.write_from_path("file", f"{url}/missing?secret=1", via_client=True)
    assert "secret" not in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_web_server_that_hangs_up_half_way_is_noticed(storage, tmp_path):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/x"
        with pytest.raises(TransferError, match=r"reading http.* failed"):
            storage.write_from_path("file", url, via_client=True)
        server.shutdown()
        thread.join()
    assert list((tmp_path / "root").iterdir()) == []


def test_nothing_can_be_dumped_to_a_url(flasher):
    with pytest.raises(ArgumentError, match="can't write to http://host/x"):
        flasher.dump("http://host/x?secret=1")


@pytest.mark.parametrize("kind", [Operator, AsyncOperator])
def test_files_of_operators_are_written_and_read(storage, image, tmp_path, kind):
    operator = kind("fs", root=str(tmp_path))
    storage.write_from_path("file", "image", operator)
    assert storage.read_bytes("file") == image.read_bytes()
    storage.read_into_path("file", "back", operator)
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_a_failed_read_into_an_operator_publishes_nothing(storage, tmp_path):
    operator = Operator("memory")
    with pytest.raises(DriverError):
        storage.read_into_path("missing", "back", operator)
    assert not operator.exists("back")


def test_an_operator_that_can_presign_is_read_by_the_exporter(storage, web, image):
    url, log = web
    with OpendalAdapter(client=storage, operator=Operator("http", endpoint=url), path="image") as handle:
        assert handle["kind"] == "presigned_request"
        assert handle["url"] == f"{url}/image"
        with storage.open("file", "wb") as file:
            storage.call("file_write", file.fd, handle)
    assert storage.read_bytes("file") == image.read_bytes()
    assert log == [("GET", "/image")]


@pytest.mark.parametrize("keywords", [{"mode": "wb"}, {"compression": "gzip"}, {"mode": "x"}])
def test_an_original_url_goes_with_plain_reading_alone(storage, keywords):
    adapter = OpendalAdapter(client=storage, operator=None, path="", original_url="http://h/x", **keywords)
    with pytest.raises(ValueError, match=r"original_url|mode"), adapter:
        pass


def test_a_local_file_that_can_not_be_written_is_told(storage, tmp_path):
    storage.write_bytes("file", b"x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(ArgumentError, match="can't write the local file"):
        storage.read_into_path("file", tmp_path / "dir")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_on_the_client_is_told_and_does_not_hang(storage, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    storage.write_bytes("file", bytes(32 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(TransferError, match="no space left for"):
            storage.read_into_path("file", small / "file")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_buffer_is_a_stream_in_both_directions(storage):
    storage.write_bytes("file", b"hello")
    stream = BytesIOStream(buf=BytesIO())
    with (
        storage.open("file", "rb") as file,
        storage.portal.wrap_async_context_manager(storage.resource_async(stream)) as handle,
    ):
        storage.call("file_read", file.fd, handle)
    assert stream.buf.getvalue() == b"hello"


@pytest.mark.parametrize(
    ("path", "name"),
    [("http://h/a/b.img?x=/y", "b.img"), ("a/b.img?x=1", "b.img"), ("/a/b", "b"), (Path("a/b"), "b")],
)
def test_the_name_of_a_file_has_neither_directories_nor_query(path, name):
    assert clean_filename(path) == name


def test_operators_are_chosen_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _, scheme = operator_for_path("x")
    assert (path, scheme) == (tmp_path.resolve() / "x", "fs")
    path, operator, scheme = operator_for_path("https://host:1/a/b?c=d")
    assert (path, scheme) == (Path("/a/b"), "http")
    assert "http" in repr(operator)


# -- commands --------------------------------------------------------------------------------------


def run(client, *arguments: str, **keywords):
    result = CliRunner().invoke(client.cli(), list(arguments), **keywords)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_storage_commands(storage, image, tmp_path):
    run(storage, "write-bytes", "file", input=b"hello")
    assert run(storage, "read-bytes", "file").stdout_bytes == b"hello"
    run(storage, "write-from-path", "dir/image", str(image))
    run(storage, "read-into-path", "dir/image", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    assert run(storage, "hash", "file").output.startswith("2cf24dba")
    assert run(storage, "hash", "file", "--algo", "md5").output == "5d41402abc4b2a76b9719d911017c592\n"
    stat = json.loads(run(storage, "stat", "file").output)
    assert (stat["content_length"], stat["mode"]) == (5, {"is_file": True, "is_dir": False})
    run(storage, "copy", "file", "copy")
    run(storage, "rename", "copy", "moved")
    run(storage, "create-dir", "new/")
    assert run(storage, "list", "/").output == run(storage, "ls").output == "/\ndir/\nfile\nmoved\nnew/\n"
    assert run(storage, "scan").output.splitlines() == ["/", "dir/", "dir/image", "file", "moved", "new/"]
    assert run(storage, "exists", "moved").exit_code == 0
    run(storage, "delete", "moved")
    missing = run(storage, "exists", "moved")
    assert (missing.exit_code, missing.stderr) == (1, "'moved' does not exist\n")
    run(storage, "remove-all", "dir/")
    assert json.loads(run(storage, "capability").output)["read"] is True
    assert run(storage, "presign-read", "file").exit_code == 2
    with pytest.raises(DriverError, match="'fs' has none"):
        run(storage, "presign-read", "file", "--expire-second", "60")


def test_flasher_commands(flasher, image, tmp_path):
    back = str(tmp_path / "back")
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    for flash, dump in (
        (["flash", str(image)], ["dump", back]),
        (["flash", str(image), "--partition", "a"], ["dump", back, "--partition", "a"]),
        (["flash", str(image), "-t", "b"], ["dump", back, "--target", "b"]),
        (["flash", "-t", f"c:{image}", "-t", f"d:{image}"], ["dump", back, "-t", "d"]),
        (["flash", str(packed), "--compression", "GZIP"], ["dump", back]),
    ):
        Path(back).unlink(missing_ok=True)
        run(flasher, *flash)
        run(flasher, *dump)
        assert Path(back).read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flash"], "FILE argument is required"),
        (["flash", "-t", "x"], "Invalid target spec 'x', expected name:file"),
        (["flash", "-t", "a:x", "-t", "a:y"], "given twice"),
        (["flash", "f", "-t", "a", "-t", "b"], "one target"),
    ],
)
def test_flasher_commands_tell_what_is_missing(flasher, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        run(flasher, *arguments)


def test_mux_commands(mux, image, tmp_path):
    assert set(mux.cli().commands) == {"host", "dut", "off", "write-local-file", "read-local-file", "flash", "dump"}
    run(mux, "host")
    run(mux, "write-local-file", str(image))
    run(mux, "read-local-file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    run(mux, "flash", str(image))
    run(mux, "dump", str(tmp_path / "dump"))
    run(mux, "off")
    assert (tmp_path / "dump").read_bytes() == image.read_bytes()
    with serve(MockStorageMux()) as plain:
        assert set(plain.cli().commands) == {"host", "dut", "off", "write-local-file", "read-local-file"}


def test_the_client_module_loads_nothing_heavy():
    heavy = ["opendal", "aiohttp", "rich"]
    code = f"import sys, jumpstarter_driver_opendal.client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
