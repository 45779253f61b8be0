"""Storage from end to end: a client in this process, a session behind a Unix socket, files on disk or in memory."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ArgumentError, ConfigurationError
from jumpstarter.common.utils import serve

from .adapter import local_file
from .driver import Opendal
from .local import PartialFile
from .sources import SourceStream
from .transfer import receive_into


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(params=["fs", "memory"])
def any_client(request, root):
    kwargs = {"root": str(root)} if request.param == "fs" else {}
    with serve(Opendal(scheme=request.param, kwargs=kwargs)) as client:
        yield client


@pytest.fixture
def client(root):
    with serve(Opendal(scheme="fs", kwargs={"root": str(root)})) as client:
        yield client


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*"))


def test_bytes_come_back_as_they_were(any_client):
    data = os.urandom(3 << 20)
    any_client.write_bytes("dir/file", data)
    assert any_client.read_bytes("dir/file") == data


def test_an_empty_file_comes_back_empty(any_client):
    any_client.write_bytes("empty", b"")
    assert any_client.read_bytes("empty") == b""
    assert any_client.stat("empty").content_length == 0


def test_a_local_file_comes_back_as_it_was(any_client, tmp_path):
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(os.urandom(5_000_001))
    any_client.write_from_path("file", source)
    any_client.read_into_path("file", target)
    assert target.read_bytes() == source.read_bytes()


def test_hashes_are_those_of_the_contents(any_client):
    any_client.write_bytes("file", b"hello")
    assert any_client.hash("file") == hashlib.sha256(b"hello").hexdigest()
    assert any_client.hash("file", "md5") == hashlib.md5(b"hello").hexdigest()


def test_a_file_is_read_from_where_it_was_sought(any_client):
    any_client.write_bytes("file", b"0123456789")
    with any_client.open("file", "rb") as file:
        assert file.seek(-3, os.SEEK_END) == 7
        assert file.tell() == 7
        assert file.read_bytes() == b"789"


def test_a_file_knows_how_it_was_opened(any_client):
    any_client.write_bytes("file", b"x")
    reader, writer = any_client.open("file", "rb"), any_client.open("other", "wb")
    assert (reader.readable(), reader.seekable(), reader.writable(), reader.closed) == (True, True, False, False)
    assert (writer.readable(), writer.seekable(), writer.writable(), writer.closed) == (False, False, True, False)
    for file in reader, writer:
        file.close()
        file.close()
        assert (file.readable(), file.seekable(), file.writable(), file.closed) == (False, False, False, True)


def test_several_writes_are_joined(any_client):
    with any_client.open("file", "wb") as file:
        file.write_bytes(b"one ")
        file.write_bytes(b"two")
    assert any_client.read_bytes("file") == b"one two"


def test_reading_a_closed_file_is_an_error(client):
    client.write_bytes("file", b"x")
    file = client.open("file", "rb")
    file.close()
    with pytest.raises(DriverInvalidArgument, match="was closed before"):
        file.read_bytes()


def test_a_file_of_another_session_is_an_error(client):
    with pytest.raises(DriverInvalidArgument, match="belongs to another driver or session"):
        client.call("file_close", "00000000-0000-0000-0000-000000000000")


def test_a_file_opened_the_other_way_says_so(client):
    client.write_bytes("file", b"x")
    with client.open("file", "rb") as reader, pytest.raises(DriverInvalidArgument, match="open for reading"):
        reader.write_bytes(b"y")
    with client.open("file", "wb") as writer, pytest.raises(DriverInvalidArgument, match="open for writing"):
        writer.read_bytes()


def test_the_number_of_open_files_is_limited(client):
    client.write_bytes("file", b"x")
    files = [client.open("file", "rb") for _ in range(256)]
    with pytest.raises(DriverInvalidArgument, match="256 files are open"):
        client.open("file", "rb")
    files[0].close()
    client.open("file", "rb").close()


def test_list_shows_one_level_and_scan_all(any_client):
    any_client.write_bytes("a/b/c", b"x")
    any_client.write_bytes("d", b"x")
    # Storages without real directories leave out what only stands for one.
    assert {"a/", "d"} <= set(any_client.list("/")) <= {"/", "a/", "d"}
    assert {"a/b/"} <= set(any_client.list("a/")) <= {"a/", "a/b/"}
    assert {"a/b/c", "d"} <= set(any_client.scan("/")) <= {"/", "a/", "a/b/", "a/b/c", "d"}
    assert list(any_client.list("missing/")) == []


def test_a_local_directory_lists_itself_first_and_the_rest_in_order(client):
    client.write_bytes("a/b/c", b"x")
    client.write_bytes("d", b"x")
    assert list(client.list("/")) == ["/", "a/", "d"]
    assert list(client.list("a/")) == ["a/", "a/b/"]
    assert list(client.scan("/")) == ["/", "a/", "a/b/", "a/b/c", "d"]
    assert list(client.list("a")) == ["a/"]


def test_paths_can_be_copied_renamed_and_removed(client):
    client.create_dir("dir/")
    client.write_bytes("file", b"x")
    client.copy("file", "dir/copy")
    client.rename("file", "moved/file")
    assert client.exists("dir/copy")
    assert client.exists("moved/file")
    assert not client.exists("file")
    client.delete("dir/copy")
    client.delete("dir/copy")
    client.delete("dir/")
    client.remove_all("moved/")
    assert sorted(client.scan("/")) == ["/"]


def test_removing_everything_keeps_the_root(client, root):
    client.write_bytes("a/b", b"x")
    client.remove_all("/")
    assert names(root) == []
    client.write_bytes("a", b"x")


def test_stat_tells_files_from_directories(client):
    client.write_bytes("dir/file", b"12345")
    assert client.stat("dir/file").content_length == 5
    assert client.stat("dir/file").mode.is_file()
    assert client.stat("dir/").mode.is_dir()
    assert client.stat("dir/file").last_modified is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.read_bytes("missing"), "No such file"),
        (lambda c: c.stat("missing"), "No such file"),
        (lambda c: c.hash("missing"), "No such file"),
        (lambda c: c.rename("missing", "x"), "No such file"),
        (lambda c: c.copy("missing", "x"), "No such file"),
        (lambda c: c.copy("file", "./file"), "same path"),
        (lambda c: c.create_dir("noslash"), "end with a slash"),
        (lambda c: c.write_bytes("dir/", b""), "directory"),
        (lambda c: c.write_bytes("dir", b""), "directory"),
        (lambda c: c.read_bytes("dir"), "directory"),
        (lambda c: c.delete("dir/"), "not empty"),
        (lambda c: c.open("file", "r"), "use 'rb' or 'wb'"),
        (lambda c: c.hash("file", "crc"), "md5"),
        (lambda c: c.write_bytes("x.jmp-part", b""), "reserved"),
    ],
)
def test_what_can_not_be_done_is_an_error_that_says_why(client, call, message):
    client.write_bytes("file", b"x")
    client.write_bytes("dir/inner", b"x")
    with pytest.raises(DriverError, match=message):
        call(client)


def test_presigning_local_files_is_not_possible(client):
    with pytest.raises(DriverMethodNotImplemented, match="'fs' has none"):
        client.presign_read("file", 60)


def test_presigning_for_a_strange_time_is_refused(client):
    with pytest.raises(DriverInvalidArgument, match="expire_second"):
        client.presign_read("file", 0)


def test_capability_tells_what_can_be_done(client):
    capability = client.capability()
    assert capability.read
    assert capability.copy
    assert not capability.presign


# -- confinement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../secret", "/../secret", "dir/../../secret", "out/secret", "link"])
@pytest.mark.parametrize(
    "call",
    [
        lambda c, p: c.read_bytes(p),
        lambda c, p: c.write_bytes(p, b"x"),
        lambda c, p: c.stat(p),
        lambda c, p: c.hash(p),
        lambda c, p: c.exists(p),
        lambda c, p: c.copy(p, "x"),
        lambda c, p: c.copy("file", p),
    ],
)
def test_a_path_that_leads_out_of_the_root_is_refused(client, root, tmp_path, path, call):
    (tmp_path / "secret").write_bytes(b"secret")
    client.write_bytes("file", b"x")
    (root / "out").symlink_to(tmp_path)
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DriverInvalidArgument, match="leads out of the storage's root"):
        call(client, path)
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_removing_a_link_leaves_what_it_points_to(client, root, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    root.mkdir(exist_ok=True)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    client.delete("link")
    client.remove_all("out")
    assert names(root) == []
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("path", ["out/secret", "../secret"])
@pytest.mark.parametrize(
    "call", [lambda c, p: c.delete(p), lambda c, p: c.remove_all(p), lambda c, p: c.rename(p, "x")]
)
def test_nothing_outside_of_the_root_can_be_removed_or_moved(client, root, tmp_path, path, call):
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(DriverInvalidArgument, match="leads out"):
        call(client, path)
    assert (tmp_path / "secret").exists()


def test_links_that_lead_out_are_not_listed(client, root, tmp_path):
    client.write_bytes("dir/file", b"x")
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to("dir")
    (root / "dir" / "loop").symlink_to("..")
    assert sorted(client.scan("/")) == ["/", "dir/", "dir/file", "dir/loop/", "in/"]


# -- whole files or none ---------------------------------------------------------------------------


def test_a_file_appears_when_it_is_closed_and_not_before(client, root):
    client.write_bytes("file", b"old")
    with client.open("file", "wb") as file:
        file.write_bytes(b"new")
        assert client.read_bytes("file") == b"old"
        assert sorted(client.list("/")) == ["/", "file"]
        assert len(names(root)) == 2
    assert client.read_bytes("file") == b"new"
    assert names(root) == ["file"]


def test_an_exception_in_the_block_leaves_the_old_file(client, root):
    client.write_bytes("file", b"old")

    def fail() -> None:
        with client.open("file", "wb") as file:
            file.write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert client.read_bytes("file") == b"old"
    assert names(root) == ["file"]


def test_a_missing_source_changes_nothing(client, root, tmp_path):
    with pytest.raises(ArgumentError, match=r"can't read the local file .*missing.*No such file"):
        client.write_from_path("file", tmp_path / "missing")
    assert names(root) == []


def test_a_source_that_fails_half_way_leaves_nothing_behind(client, root, tmp_path):
    class Failing:
        """A file on a disk with a bad sector, behind more than sockets hold: the call is under way when it comes."""

        pieces = [b"x" * (1 << 20)] * 64

        def read(self, size: int) -> bytes:
            if not self.pieces:
                raise OSError(5, "Input/output error")
            return self.pieces.pop()

    stream = SourceStream(Failing())
    with (
        pytest.raises(DriverError, match="connection to the client ended"),
        client.open("file", "wb") as file,
        client.portal.wrap_async_context_manager(client.resource_async(stream)) as handle,
    ):
        client.call("file_write", file.fd, handle)
    assert isinstance(stream.failure, OSError)
    assert names(root) == []


def test_a_download_that_fails_leaves_the_old_local_file(client, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(DriverError, match="No such file"):
        client.read_into_path("missing", target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["target"]


def test_a_file_that_is_not_closed_is_gone_after_the_session(root):
    with serve(Opendal(scheme="fs", kwargs={"root": str(root)})) as client:
        client.open("file", "wb").write_bytes(b"half")
        assert len(names(root)) == 1
    assert names(root) == []


CLIENT = """
import sys
from contextlib import ExitStack
from anyio.from_thread import start_blocking_portal
from jumpstarter.client.client import client_from_path
with start_blocking_portal() as portal, ExitStack() as stack:
    opened = client_from_path(sys.argv[1], portal, stack, [], True)
    with portal.wrap_async_context_manager(opened) as client:
        client.write_from_path("big", sys.argv[2])
"""


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_partial_file_of_a_client_that_dies_is_gone(root, tmp_path, signal):
    import signal as signals

    from jumpstarter.exporter import Session

    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(64 << 30)  # more than can be sent before the signal; takes no space
    changes = threading.Event()
    with Session(root_device=Opendal(scheme="fs", kwargs={"root": str(root)})) as session, session.serve_unix() as path:
        process = subprocess.Popen([sys.executable, "-c", CLIENT, str(path), str(source)], stderr=subprocess.PIPE)
        try:
            wait_until(lambda: any(entry.stat().st_size > 1 << 20 for entry in os.scandir(root)), changes)
            process.send_signal(getattr(signals, signal))
            process.communicate(timeout=30)
            wait_until(lambda: names(root) == [], changes)
        finally:
            process.kill()
            process.wait()


def wait_until(condition, clock: threading.Event, timeout: float = 20) -> None:
    """Look again and again, as a file system has no events that work everywhere."""
    for _ in range(int(timeout / 0.01)):
        if condition():
            return
        clock.wait(0.01)
    raise AssertionError("did not happen in time")


def test_what_a_killed_exporter_left_is_removed_by_the_next_upload(client, root):
    client.write_bytes("file", b"x")
    left = root / ".file.0123456789ab.jmp-part"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    client.write_bytes("file", b"y")
    assert names(root) == ["file"]


def test_an_upload_under_way_is_not_taken_for_abandoned(root):
    root.mkdir()
    first = PartialFile(str(root / "a"))
    os.utime(next(root.iterdir()), (0, 0))
    second = PartialFile(str(root / "a"))
    first.write(b"first")
    first.publish()
    second.discard()
    assert (root / "a").read_bytes() == b"first"


def test_a_replaced_file_keeps_its_permissions(client, root):
    client.write_bytes("file", b"old")
    (root / "file").chmod(0o640)
    client.write_bytes("file", b"new")
    assert (root / "file").stat().st_mode & 0o777 == 0o640


def test_a_very_long_name_can_be_written(client):
    name = "ä" * 120
    client.write_bytes(name, b"x")
    assert client.read_bytes(name) == b"x"


# -- limits ----------------------------------------------------------------------------------------


def test_a_file_above_the_limit_is_refused_and_removed(root):
    with serve(Opendal(scheme="fs", kwargs={"root": str(root)}, max_size="1MiB")) as client:
        client.write_bytes("fits", bytes(1 << 20))
        with pytest.raises(DriverInvalidArgument, match="Raise max_size in the exporter config"):
            client.write_bytes("large", bytes((1 << 20) + 1))
        assert names(root) == ["fits"]


def test_a_decompression_bomb_is_stopped_at_the_limit(root, tmp_path):
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    with (
        serve(Opendal(scheme="fs", kwargs={"root": str(root)}, max_size="10MiB")) as client,
        pytest.raises(DriverInvalidArgument, match="larger than the 10485760 bytes"),
        client.open("x", "wb") as file,
        local_file(client=client, path=bomb, compression="gzip") as handle,
    ):
        client.call("file_write", file.fd, handle)
    assert names(root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        with serve(Opendal(scheme="fs", kwargs={"root": str(small)})) as client:
            with pytest.raises(DriverError, match=r"no space left for 'file' after \d+ bytes.*Free space"):
                client.write_bytes("file", bytes(8 << 20))
            assert names(small) == []
            client.write_bytes("file", bytes(1 << 20))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("value", ["", "0", "-1", "10 apples", 0, -5, None, True, 1.5, "5i"])
def test_a_limit_that_is_no_size_is_refused(root, value):
    with pytest.raises(ConfigurationError, match="max_size must be"):
        Opendal(scheme="fs", kwargs={"root": str(root)}, max_size=value)


# -- what was stored in the session ----------------------------------------------------------------


def test_paths_made_in_the_session_are_remembered(client):
    client.write_bytes("a", b"x")
    client.copy("a", "b")
    client.rename("b", "./c")
    client.create_dir("dir/")
    client.write_bytes("gone", b"x")
    client.delete("gone")
    assert client.get_created_resources() == {"a", "c", "dir/"}
    client.remove_all("dir/")
    assert client.get_created_resources() == {"a", "c"}


def test_paths_made_in_the_session_are_removed_at_its_end_if_asked(root):
    root.mkdir()
    (root / "before").write_bytes(b"x")
    with serve(Opendal(scheme="fs", kwargs={"root": str(root)}, remove_created_on_close=True)) as client:
        client.create_dir("dir/")
        client.write_bytes("dir/file", b"x")
    assert names(root) == ["before"]


def test_other_drivers_can_copy_files_of_the_exporter(root, tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    driver = Opendal(scheme="fs", kwargs={"root": str(root)})
    driver.copy_exporter_file(tmp_path / "source", "dir/target")
    assert (root / "dir" / "target").read_bytes() == b"x"
    assert driver._created_paths == {"dir/target"}


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "kwargs", "message"),
    [
        ("fs", {}, "needs 'root'"),
        ("fs", {"root": ""}, "needs 'root'"),
        ("fs", {"root": "/proc/nowhere"}, "can't be used"),
        ("nonsense", {}, "no such service"),
        ("s3", {}, "bucket"),
        ("fs", ["root"], "must be a mapping"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_reason(scheme, kwargs, message):
    with pytest.raises(ConfigurationError, match=message):
        Opendal(scheme=scheme, kwargs=kwargs)


def test_numbers_and_booleans_in_the_settings_are_taken_as_text():
    Opendal(
        scheme="s3", kwargs={"bucket": "abc", "region": "r", "disable_config_load": True, "batch_max_operations": 5}
    )


# -- transfers -------------------------------------------------------------------------------------


async def test_writing_stops_at_the_first_failure_and_waits_for_the_thread():
    class Stream:
        async def receive(self) -> bytes:
            return b"x" * 100

    written = []

    def write(data: bytes) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(data)

    with anyio.fail_after(10), pytest.raises(OSError, match="No space"):
        await receive_into(Stream(), write)
    assert len(written) == 3
