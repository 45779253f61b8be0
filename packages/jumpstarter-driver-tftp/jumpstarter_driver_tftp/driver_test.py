"""The driver with its client, and the server against real TFTP clients."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_testbench.folder_servers import FolderServerTests, folder_server_fixtures

from .driver import Tftp

root, client, started = folder_server_fixtures(Tftp)


class TestServingAFolder(FolderServerTests):
    driver = Tftp
    transport = socket.SOCK_DGRAM


def run(*command: str | Path, cwd: Path | None = None, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False
    )


def test_files_are_put_listed_and_deleted_by_short_names(client, tmp_path):
    (tmp_path / "image").write_bytes(b"x")
    assert client.put_local_file(tmp_path / "image") == "image"
    client.put_file("dir/other", tmp_path / "image")
    assert sorted(client.list_files()) == ["dir/other", "image"]
    client.delete_file("image")
    assert client.list_files() == ["dir/other"]


def test_the_commands_do_the_same(client, tmp_path):
    (tmp_path / "image").write_bytes(b"x")

    def j(*arguments: str) -> str:
        result = CliRunner().invoke(client.cli(), arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert j("start").startswith("127.0.0.1:")
    assert j("address") == f"127.0.0.1:{client.get_port()}\n"
    assert j("put", str(tmp_path / "image")) == "image\n"
    assert j("put", str(tmp_path / "image"), "dir/other") == "dir/other\n"
    assert sorted(j("ls").split()) == ["dir/other", "image"]
    assert "image" in j("storage", "ls")
    j("delete", "image")
    assert j("ls").split() == ["dir/other"]
    j("stop")


@pytest.mark.parametrize(
    "settings", [{"port": -1}, {"port": 65536}, {"port": "x"}, {"block_size": 1}, {"timeout": 0}, {"max_size": "x"}]
)
def test_a_wrong_configuration_is_refused(root, settings):
    with pytest.raises(ConfigurationError, match="must be"):
        Tftp(root_dir=str(root), host="127.0.0.1", **settings)


# -- real clients ----------------------------------------------------------------------------------


@pytest.fixture
def image(started, tmp_path) -> Path:
    """A file of 3 MiB and some, stored as `dir/image`."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom((3 << 20) + 77))
    started.put_file("dir/image", source)
    return source


def same(one: Path, other: Path) -> bool:
    return hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


@pytest.mark.daemon
@pytest.mark.need("curl")
@pytest.mark.parametrize(
    "options", [[], ["--tftp-blksize", "1468"], ["--tftp-blksize", "65464"], ["--tftp-no-options"]]
)
def test_curl_gets_a_file(started, image, tmp_path, options):
    url = f"tftp://127.0.0.1:{started.get_port()}/dir/image"
    result = run("curl", "-sS", *options, "-o", tmp_path / "got", url)
    assert result.returncode == 0, result.stderr
    assert same(tmp_path / "got", image)


@pytest.mark.daemon
@pytest.mark.need("curl")
def test_curl_is_told_what_is_not_there_and_what_is_not_allowed(started, root):
    (root / "out").symlink_to("/etc/passwd")
    for name, code in ("missing", 68), ("../../etc/passwd", 69), ("out", 69):
        url = f"tftp://127.0.0.1:{started.get_port()}/{name}"
        assert run("curl", "-sS", "--path-as-is", url).returncode == code, name


@pytest.mark.daemon
@pytest.mark.need("curl")
def test_curl_can_not_upload(started, root, image):
    result = run("curl", "-sS", "-T", image, f"tftp://127.0.0.1:{started.get_port()}/new")
    assert result.returncode != 0
    assert not (root / "new").exists()


@pytest.mark.daemon
@pytest.mark.need("tftp")
def test_tftp_hpa_gets_a_file(started, image, tmp_path):
    result = run(
        *("tftp", "-m", "binary", "127.0.0.1", str(started.get_port()), "-c", "get", "dir/image", tmp_path / "got")
    )
    assert result.returncode == 0, result.stderr
    assert same(tmp_path / "got", image)


@pytest.mark.daemon
@pytest.mark.need("tftp")
def test_tftp_hpa_gets_a_text_with_line_ends_of_its_own(started, tmp_path):
    started.storage.write_bytes("text", b"one\ntwo\r\nthree\r")
    run("tftp", "-m", "ascii", "127.0.0.1", str(started.get_port()), "-c", "get", "text", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"one\ntwo\r\nthree\r"


@pytest.mark.daemon
@pytest.mark.need("atftp")
@pytest.mark.parametrize(
    "options",
    [[], ["--option", "blksize 1428"], ["--option", "blksize 1024", "--option", "tsize 0", "--option", "timeout 2"]],
)
def test_atftp_gets_a_file(started, image, tmp_path, options):
    arguments = ["-g", "-r", "dir/image", "-l", tmp_path / "got", "127.0.0.1", str(started.get_port())]
    result = run("atftp", *options, *arguments)
    assert result.returncode == 0, result.stderr
    assert same(tmp_path / "got", image)


@pytest.mark.daemon
@pytest.mark.need("curl")
def test_a_file_of_more_blocks_than_there_are_numbers_arrives_whole(started, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(34 << 20))  # 69632 blocks of 512 bytes
    started.put_file("big", source)
    result = run("curl", "-sS", "-o", tmp_path / "got", f"tftp://127.0.0.1:{started.get_port()}/big", timeout=110)
    assert result.returncode == 0, result.stderr
    assert same(tmp_path / "got", source)


@pytest.mark.daemon
@pytest.mark.need("curl")
def test_several_clients_are_served_at_once(started, image, tmp_path):
    url = f"tftp://127.0.0.1:{started.get_port()}/dir/image"
    processes = [subprocess.Popen(["curl", "-sS", "-o", tmp_path / f"got{i}", url]) for i in range(4)]
    try:
        assert [process.wait(60) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(same(tmp_path / f"got{i}", image) for i in range(4))
