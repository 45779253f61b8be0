"""A client that connects when it is first used."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jumpstarter.client.errors import DriverError
from jumpstarter.client.lazy import lazy_client
from jumpstarter.common.report_file import SUFFIX, read_report
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.exporter import Session
from jumpstarter.streams.common import create_memory_stream


class Leaf(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def echo(self, value: Any) -> Any:
        return value

    @export
    async def count(self, limit: int) -> Any:
        for number in range(limit):
            yield number

    @exportstream
    @asynccontextmanager
    async def connect(self) -> Any:
        near, far = create_memory_stream()
        await far.send(b"hello")
        yield near


@pytest.fixture
def path() -> Iterator[Path]:
    """The socket of a served session."""
    root = Leaf(description="Root", children={"leaf": Leaf(methods_description={"echo": "Say it again"})})
    with Session(root_device=root) as session, session.serve_unix() as path:
        yield path


def test_the_tree_is_there_without_a_connection(path: Path) -> None:
    path.unlink()
    with lazy_client(str(path), [], True) as client:
        assert client is not None
        assert client.description == "Root"
        assert client.children["leaf"].methods_description == {"echo": "Say it again"}


def test_every_kind_of_use_connects(path: Path) -> None:
    with lazy_client(str(path), [], True) as client:
        assert client is not None
        leaf = client.children["leaf"]
        assert leaf.call("echo", "x") == "x"
        assert list(leaf.streamingcall("count", 3)) == [0, 1, 2]
        with leaf.stream() as stream:
            assert stream.receive() == b"hello"
        assert client.portal.call(client.call_async, "echo", 1) == 1


def test_a_session_that_is_gone_is_an_error_at_the_first_use(path: Path) -> None:
    path.unlink()
    with lazy_client(str(path), [], True) as client:
        assert client is not None
        with pytest.raises(DriverError):
            client.call("echo", 1)


def test_without_a_report_there_is_no_lazy_client(tmp_path: Path) -> None:
    with lazy_client(str(tmp_path / "socket"), [], True) as client:
        assert client is None


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", "null"])
def test_a_report_that_is_damaged_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / f"socket{SUFFIX}").write_text(content)
    assert read_report(str(tmp_path / "socket")) is None


def test_the_report_is_private_and_goes_with_the_session() -> None:
    with Session(root_device=Leaf()) as session, session.serve_unix() as path:
        file = Path(f"{path}{SUFFIX}")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text())[0]["uuid"] == str(session.root_device.uuid)
    assert not file.exists()


def test_looking_at_the_tree_loads_neither_grpc_nor_an_event_loop(path: Path) -> None:
    program = (
        "import sys\n"
        "from jumpstarter.client.lazy import lazy_client\n"
        f"with lazy_client({str(path)!r}, [], True) as client:\n"
        "    assert list(client.children) == ['leaf']\n"
        "print([name for name in ('grpc', 'google.protobuf', 'asyncio', 'anyio', 'pydantic') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
