"""The driver with its client, and the server against curl."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter_testbench.folder_servers import FolderServerTests, folder_server_fixtures, lay_traps

from .driver import HttpServer

root, client, started = folder_server_fixtures(HttpServer)


class TestServingAFolder(FolderServerTests):
    driver = HttpServer
    transport = socket.SOCK_STREAM


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read()


def curl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "--max-time", "60", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=90, check=False)


def status(*arguments: str) -> int:
    return int(curl("-o", "/dev/null", "-w", "%{http_code}", *arguments).stdout)


def headers(*arguments: str) -> dict[str, str]:
    lines = curl("-I", *arguments).stdout.decode().split("\r\n")
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:]) if value}


def test_a_file_that_is_put_can_be_downloaded(started, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_001))
    url = started.put_file("dir/a file ü.img", source)
    assert url == f"http://127.0.0.1:{started.get_port()}/dir/a%20file%20%C3%BC.img"
    assert get(url) == source.read_bytes()
    assert get(started.put_local_file(source)) == source.read_bytes()
    assert sorted(started.storage.scan("/")) == ["/", "dir/", "dir/a file ü.img", "source"]


def test_urls_name_the_advertised_host(root):
    settings = {"root_dir": str(root), "host": "127.0.0.1", "port": 0, "advertised_host": "files.lab"}
    with serve(HttpServer(**settings)) as client:
        client.start()
        assert client.get_url() == f"http://files.lab:{client.get_port()}"
        assert client.get_host() == "127.0.0.1"


def test_ipv6_addresses_stand_in_brackets(root):
    with serve(HttpServer(root_dir=str(root), host="::1", port=0)) as client:
        client.start()
        client.storage.write_bytes("file", b"x")
        assert get(f"{client.get_url()}/file") == b"x"
        assert client.get_url().startswith("http://[::1]:")


async def test_the_driver_can_be_started_by_other_drivers_and_closed_on_the_event_loop(root):
    driver = HttpServer(root_dir=str(root), host="127.0.0.1", port=0)
    await driver.start()
    port = driver.get_port()
    assert driver.runner is not None
    driver.close()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_the_commands_do_the_same(client, tmp_path):
    (tmp_path / "image").write_bytes(b"x")

    def j(*arguments: str) -> str:
        result = CliRunner().invoke(client.cli(), arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output.strip()

    url = j("start")
    assert j("url") == url == client.get_url()
    assert j("put", str(tmp_path / "image")) == f"{url}/image"
    assert j("put", str(tmp_path / "image"), "dir/other") == f"{url}/dir/other"
    assert get(f"{url}/dir/other") == b"x"
    assert "image" in j("storage", "ls")
    j("stop")


@pytest.mark.parametrize("settings", [{"port": -1}, {"port": "x"}, {"timeout": 0}, {"max_size": "x"}])
def test_a_wrong_configuration_is_refused(root, settings):
    with pytest.raises(ConfigurationError, match="must be"):
        HttpServer(root_dir=str(root), host="127.0.0.1", **settings)


# -- curl ------------------------------------------------------------------------------------------

with_curl = [pytest.mark.daemon, pytest.mark.need("curl")]


@pytest.fixture
def url(started, root) -> str:
    started.storage.write_bytes("dir/file", b"0123456789")
    lay_traps(root)
    return started.get_url()


class TestCurl:
    pytestmark = with_curl

    def test_gets_a_file(self, url):
        assert curl(f"{url}/dir/file").stdout == b"0123456789"
        assert curl(f"{url}/in").stdout == b"0123456789"

    def test_asks_for_the_head_alone(self, url):
        found = headers(f"{url}/dir/file")
        assert found["content-length"] == "10"
        assert found["accept-ranges"] == "bytes"
        assert found["etag"]
        assert found["last-modified"]

    @pytest.mark.parametrize(("asked", "got"), [("2-4", b"234"), ("7-", b"789"), ("-3", b"789"), ("8-99", b"89")])
    def test_gets_a_range(self, url, asked, got):
        assert curl("-r", asked, f"{url}/dir/file").stdout == got
        assert status("-r", asked, f"{url}/dir/file") == 206

    def test_is_told_that_a_range_is_outside(self, url):
        assert status("-r", "10-", f"{url}/dir/file") == 416

    def test_resumes_a_download(self, url, tmp_path):
        (tmp_path / "got").write_bytes(b"01234")
        assert curl("-C", "-", "-o", tmp_path / "got", f"{url}/dir/file").returncode == 0
        assert (tmp_path / "got").read_bytes() == b"0123456789"

    def test_gets_nothing_new_if_nothing_changed(self, url):
        etag = headers(f"{url}/dir/file")["etag"]
        assert status("-H", f"If-None-Match: {etag}", f"{url}/dir/file") == 304

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("missing", 404),
            ("dir/file/x", 404),
            ("fifo", 404),
            (".file.1f.jmp-part", 404),
            ("", 403),
            ("dir", 403),
            ("dir/", 403),
            ("../secret", 404),
            ("dir/../../secret", 404),
            ("%2e%2e/secret", 404),
            ("..%2fsecret", 404),
            ("out/secret", 404),
            ("link", 404),
            ("a%00b", 404),
            ("//etc/passwd", 404),
            ("n" * 300, 404),
        ],
    )
    def test_gets_nothing_that_is_not_a_file_inside(self, url, path, expected):
        assert status("--path-as-is", f"{url}/{path}") == expected

    @pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
    def test_can_not_change_anything(self, url, method):
        assert status("-X", method, f"{url}/dir/file") == 405
        assert curl(f"{url}/dir/file").stdout == b"0123456789"

    def test_gets_files_as_they_are_also_with_a_compressed_neighbour(self, started, url):
        packed = gzip.compress(b"something else")
        started.storage.write_bytes("dir/file.gz", packed)
        assert curl("--compressed", f"{url}/dir/file").stdout == b"0123456789"
        assert curl("--compressed", f"{url}/dir/file.gz").stdout == packed
        assert "content-encoding" not in headers("-H", "Accept-Encoding: gzip", f"{url}/dir/file.gz")

    def test_gets_the_old_file_until_the_new_one_is_complete(self, started, url):
        with started.storage.open("dir/file", "wb") as file:
            file.write_bytes(b"new")
            assert curl(f"{url}/dir/file").stdout == b"0123456789"
        assert curl(f"{url}/dir/file").stdout == b"new"

    def test_gets_a_large_file_whole(self, started, tmp_path):
        source = tmp_path / "source"
        source.write_bytes(os.urandom(64 << 20))
        url = started.put_local_file(source)
        assert curl("-o", tmp_path / "got", url).returncode == 0
        assert (tmp_path / "got").read_bytes() == source.read_bytes()


def test_a_download_under_way_does_not_keep_the_server_from_stopping(started, tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(512 << 20)
    url = started.put_local_file(source)
    with urllib.request.urlopen(url, timeout=20) as response:
        assert response.read(1000)
        started.stop()
    assert started.get_port() == 0
    with pytest.raises(urllib.error.URLError):
        get(url)
