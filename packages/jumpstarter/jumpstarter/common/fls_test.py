"""The flashing program is downloaded whole or not at all."""

from __future__ import annotations

import http.server
import os
import platform
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jumpstarter.common import fls
from jumpstarter.common.fls import download_fls, get_fls_binary, get_fls_github_url

PROGRAM = b"#!/bin/sh\necho fls $*\n"


class Handler(http.server.BaseHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        body = b"" if self.path == "/empty" else PROGRAM
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (100 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", Handler.requests
        httpd.shutdown()
        thread.join(5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fls, "_downloaded", {})
    return tmp_path


@pytest.mark.parametrize(
    ("arch", "asset"),
    [
        ("aarch64", "fls-aarch64-linux-musl"),
        ("arm64", "fls-aarch64-linux-musl"),
        ("AMD64", "fls-x86_64-linux-musl"),
        ("riscv64", "fls-riscv64-linux-musl"),
    ],
)
def test_releases_have_a_binary_for_each_architecture(arch: str, asset: str) -> None:
    url = get_fls_github_url("0.3.0", arch)
    assert url == f"https://github.com/jumpstarter-dev/fls/releases/download/0.3.0/{asset}"


def test_the_architecture_is_that_of_this_machine() -> None:
    assert get_fls_github_url("0.3.0") == get_fls_github_url("0.3.0", platform.machine())


@pytest.mark.parametrize("version", ["", "../../evil", "0.3.0/x", "-1", "0 3"])
def test_a_version_can_not_lead_elsewhere(version: str) -> None:
    with pytest.raises(ValueError, match="is not a version"):
        get_fls_github_url(version)


def test_a_download_can_be_run(server: tuple[str, list[str]]) -> None:
    path = download_fls(f"{server[0]}/fls")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    assert subprocess.run([path, "hello"], capture_output=True, timeout=10, check=True).stdout == b"fls hello\n"


@pytest.mark.parametrize(
    ("path", "why"),
    [("/missing?token=s3cr3t", "answered 404"), ("/short", "ended after 22 of 122 bytes"), ("/empty", "is empty")],
)
def test_a_download_that_fails_leaves_no_file(server: tuple[str, list[str]], folder: Path, path: str, why: str) -> None:
    with pytest.raises(RuntimeError, match=f"Failed to download FLS from {server[0]}/[a-z]+: .*{why}") as caught:
        download_fls(server[0] + path)
    assert "s3cr3t" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_download_has_a_limit(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fls, "MAX_SIZE", 10)
    with pytest.raises(RuntimeError, match="larger than"):
        download_fls(f"{server[0]}/fls")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "fls", "http://127.0.0.1:1/fls"])
def test_other_places_are_errors(url: str, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="Failed to download FLS"):
        download_fls(url, timeout=2)
    assert list(folder.iterdir()) == []


def test_without_wishes_the_program_is_that_of_the_search_path() -> None:
    assert get_fls_binary() == get_fls_binary(allow_custom_binaries=True) == "fls"


def test_a_custom_binary_needs_permission(server: tuple[str, list[str]]) -> None:
    url = f"{server[0]}/fls"
    with pytest.raises(RuntimeError, match="not allowed"):
        get_fls_binary("0.3.0", url)
    assert server[1] == []
    assert Path(get_fls_binary("0.3.0", url, allow_custom_binaries=True)).read_bytes() == PROGRAM


def test_a_version_is_downloaded_once(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fls, "RELEASES", server[0])
    path = get_fls_binary("0.3.0")
    assert get_fls_binary("0.3.0") == path
    assert len(server[1]) == 1
    os.unlink(path)
    assert Path(get_fls_binary("0.3.0")).read_bytes() == PROGRAM
