"""Servers of files, asked for what lies outside of their root by whoever reaches their port."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Bench
from .programs import LIMIT, J, Outcome

Config = Callable[..., str]
OpenBench = Callable[..., Bench]
Run = Callable[..., Outcome]

SECRET = b"what nobody may read"
PUBLIC = b"what everybody may read"

PATHS = ["../secret", "deep/../../secret", "/../secret", "out/secret", "link"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a server: a file, links that lead out, and what they lead to beside it."""
    root = tmp_path / "served"
    (root / "deep").mkdir(parents=True)
    (root / "file").write_bytes(PUBLIC)
    (tmp_path / "secret").write_bytes(SECRET)
    (root / "out").symlink_to(tmp_path)
    (root / "link").symlink_to(tmp_path / "secret")
    return root


def serving(kind: str, tell: str, root: Path, config: Config, bench: OpenBench, run: Run) -> tuple[str, int]:
    """Start the server and return its address, which the command `tell` prints."""
    path = config(server={"type": kind, "config": {"root_dir": str(root), "host": "127.0.0.1", "port": 0}})
    env = bench(path).env
    assert run(J, "server", "start", env=env).code == 0
    host, _, port = run(J, "server", tell, env=env).out.strip().removeprefix("http://").rpartition(":")
    return host, int(port)


def http_get(address: tuple[str, int], path: str) -> bytes:
    """Ask for a path as it is; libraries would resolve its dots first."""
    with socket.create_connection(address, LIMIT) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: board\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_http(root: Path, config: Config, bench: OpenBench, run: Run) -> None:
    address = serving("jumpstarter_driver_http.driver.HttpServer", "url", root, config, bench, run)
    assert http_get(address, "/file").endswith(PUBLIC)
    for path in [*PATHS, "..%2fsecret", "%2e%2e/secret", "..\\secret", "/etc/passwd", "//etc/passwd"]:
        answer = http_get(address, f"/{path}")
        assert answer.startswith(b"HTTP/1.1 4"), (path, answer)
        assert SECRET not in answer
        assert b"root:" not in answer


def tftp_get(address: tuple[str, int], path: str) -> bytes:
    """Return the first answer to a read request (RFC 1350, 5)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(b"\x00\x01" + path.encode() + b"\x00octet\x00", address)
        answer, sender = client.recvfrom(65536)
        if answer[:2] == b"\x00\x03":
            client.sendto(b"\x00\x04" + answer[2:4], sender)
    return answer


def test_tftp(root: Path, config: Config, bench: OpenBench, run: Run) -> None:
    address = serving("jumpstarter_driver_tftp.driver.Tftp", "address", root, config, bench, run)
    assert tftp_get(address, "file") == b"\x00\x03\x00\x01" + PUBLIC
    for name in [*PATHS, "..\\secret", "/etc/passwd"]:
        answer = tftp_get(address, name)
        assert answer[:2] == b"\x00\x05", (name, answer)  # an ERROR packet
        assert SECRET not in answer
