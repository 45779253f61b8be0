"""Temporary sockets are private, and one bad connection harms no other."""

from __future__ import annotations

import errno
import logging
import socket
import stat
import tempfile
from pathlib import Path

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream, fail_after
from anyio.abc import ByteStream

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tempfile import TemporarySocket, TemporaryTcpListener, TemporaryUnixListener
from jumpstarter.streams.unix import connect_unix, create_unix_listener


async def echo(stream: ByteStream) -> None:
    async for chunk in stream:
        await stream.send(chunk)


async def exchange(path: Path, message: bytes = b"ping") -> bytes:
    with fail_after(5):
        async with await connect_unix(path) as stream:
            await stream.send(message)
            return await stream.receive()


def test_the_socket_lies_in_a_directory_of_this_user_alone() -> None:
    with TemporarySocket() as path:
        assert not path.exists()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_a_long_temporary_directory_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(ConfigurationError, match="TMPDIR") as caught, TemporarySocket():
        pass
    assert str(folder) in str(caught.value)
    assert not list(folder.iterdir())


async def test_a_long_path_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bytes long"):
        async with TemporaryUnixListener(echo, tmp_path / ("x" * 120)):
            pass


async def test_a_unix_listener_serves_while_the_context_lasts() -> None:
    async with TemporaryUnixListener(echo) as path:
        assert await exchange(path) == b"ping"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.parent.exists()


async def test_a_unix_listener_takes_a_given_path_and_replaces_a_stale_socket() -> None:
    with TemporarySocket() as path:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with TemporaryUnixListener(echo, path) as used:
            assert used == path
            assert await exchange(path) == b"ping"
        assert not path.exists()


@pytest.mark.parametrize("group", [False, True])
async def test_a_failing_handler_ends_its_own_connection_alone(caplog: pytest.LogCaptureFixture, group: bool) -> None:
    async def fragile(stream: ByteStream) -> None:
        async for chunk in stream:
            if chunk == b"fail":
                error = RuntimeError("dial refused")
                raise ExceptionGroup("group", [error]) if group else error
            await stream.send(chunk)

    async with TemporaryUnixListener(fragile) as path, await connect_unix(path) as other:
        await other.send(b"one")
        assert await other.receive() == b"one"
        with pytest.raises((EndOfStream, BrokenResourceError)):
            await exchange(path, b"fail")
        with fail_after(5):
            await other.send(b"two")
            assert await other.receive() == b"two"
        assert await exchange(path) == b"ping"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"a connection to {path} failed: dial refused"
    ]


async def test_open_connections_are_cancelled_when_the_context_ends() -> None:
    started, ended = anyio.Event(), anyio.Event()

    async def endless(stream: ByteStream) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with fail_after(5):
        async with TemporaryUnixListener(endless) as path:
            client = await connect_unix(path)
            await started.wait()
        assert ended.is_set()
        with pytest.raises((EndOfStream, BrokenResourceError)):
            await client.receive()
        await client.aclose()


async def test_an_error_of_the_body_arrives_in_no_group() -> None:
    with pytest.raises(KeyError, match="board"):
        async with TemporaryUnixListener(echo):
            raise KeyError("board")


async def test_cancelling_the_body_closes_the_listener() -> None:
    with anyio.move_on_after(5) as scope:
        async with TemporaryTcpListener(echo) as address:
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(OSError, match="All connection attempts failed"):
        await anyio.connect_tcp(*address[:2])


async def test_running_out_of_descriptors_does_not_end_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    class Exhausted:
        """A listener that has no descriptor for its first connection."""

        def __init__(self, listener: object) -> None:
            self.listener, self.tries = listener, 0

        async def serve(self, handler: object, tasks: object) -> None:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            await self.listener.serve(handler, tasks)

        async def __aenter__(self) -> object:
            return self

        async def __aexit__(self, *details: object) -> None:
            await self.listener.aclose()

    from jumpstarter.common.tempfile import _serving

    with TemporarySocket() as path:
        listener = Exhausted(await create_unix_listener(path))
        async with _serving([listener], echo, "test"):
            assert await exchange(path) == b"ping"
    assert "Too many open files; trying again" in caplog.text


async def test_a_tcp_listener_is_on_loopback_and_a_free_port() -> None:
    async with TemporaryTcpListener(echo) as address, await anyio.connect_tcp(*address[:2]) as stream:
        assert address[0] == "127.0.0.1"
        await stream.send(b"ping")
        with fail_after(5):
            assert await stream.receive() == b"ping"


async def test_a_tcp_port_that_is_taken_is_an_error_with_its_name() -> None:
    async with TemporaryTcpListener(echo) as address:
        with pytest.raises(OSError, match=rf"can't listen on 127.0.0.1 port {address[1]}") as caught:
            async with TemporaryTcpListener(echo, local_port=address[1]):
                pass
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_tcp_port_is_shared_when_both_ask_for_it() -> None:
    async with (
        TemporaryTcpListener(echo, reuse_port=True) as first,
        TemporaryTcpListener(echo, local_port=first[1], reuse_port=True) as second,
    ):
        assert second == first
