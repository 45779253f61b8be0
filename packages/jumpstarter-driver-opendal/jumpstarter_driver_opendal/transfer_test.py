"""Transfers between blocking files and streams: order, failure, cancellation, and memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream
from jumpstarter.common.utils import serve
from jumpstarter.streams.common import create_memory_stream

from .driver import MockFlasher, Opendal
from .sources import PipeStream
from .transfer import CHUNK_SIZE, ReadAhead, WriteBehind, finish, receive_into, send_from


async def test_all_bytes_arrive_in_order():
    pieces = [os.urandom(size) for size in (1, CHUNK_SIZE, 7, CHUNK_SIZE // 2)]
    left = list(pieces)
    near, far = create_memory_stream()
    received: list[bytes] = []
    with anyio.fail_after(20):
        async with near, far, anyio.create_task_group() as tasks:
            tasks.start_soon(receive_into, far, received.append)
            assert await send_from(lambda _: left.pop(0) if left else b"", near) == sum(map(len, pieces))
            await near.send_eof()
    assert b"".join(received) == b"".join(pieces)


async def test_one_chunk_is_read_ahead_and_no_more():
    reads = []
    read = threading.Event()

    def count(size: int) -> bytes:
        reads.append(size)
        if len(reads) == 2:
            read.set()
        return b"x"

    ahead = ReadAhead(count)
    with anyio.fail_after(10):
        assert await ahead.next() == b"x"
        assert await anyio.to_thread.run_sync(read.wait, 10)
        await ahead.settle()
    assert len(reads) == 2


async def test_a_failed_write_is_told_at_the_next_one_or_at_the_end():
    def fail(_: bytes) -> None:
        raise OSError(5, "broken")

    behind = WriteBehind(fail)
    with anyio.fail_after(10):
        await behind.put(b"a")
        with pytest.raises(OSError, match="broken"):
            await behind.put(b"b")
        behind = WriteBehind(fail)
        await behind.put(b"a")
        with pytest.raises(OSError, match="broken"):
            await behind.flush()


async def test_a_stream_that_breaks_is_not_taken_for_one_that_ends():
    class Broken:
        chunks = [b"half"]

        async def receive(self) -> bytes:
            if self.chunks:
                return self.chunks.pop()
            raise BrokenResourceError

    with pytest.raises(ConnectionAbortedError, match="ended after 4 bytes, before all was there"):
        await receive_into(Broken(), lambda _: None)


async def test_cancelling_waits_for_the_thread_that_writes():
    writing, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(_: bytes) -> None:
        writing.set()
        may_end.wait(10)
        ended.set()

    near, far = create_memory_stream()
    with anyio.fail_after(20):
        async with near, far, anyio.create_task_group() as tasks:
            await near.send(b"x")
            tasks.start_soon(receive_into, far, slow)
            assert await anyio.to_thread.run_sync(writing.wait, 10)
            threading.Timer(0.05, may_end.set).start()
            tasks.cancel_scope.cancel()
    assert ended.is_set()


async def test_clean_up_runs_to_its_end_when_the_task_is_cancelled_again_and_again():
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def clean_up() -> None:
        started.set()
        may_end.wait(10)
        ended.set()

    async def fail() -> None:
        try:
            raise ConnectionAbortedError
        except ConnectionAbortedError:
            await finish(clean_up)
            raise

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert await anyio.to_thread.run_sync(started.wait, 10)
    may_end.set()
    with anyio.fail_after(10), pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_pipe_is_read_as_it_fills_and_can_be_left_while_it_is_empty():
    reader, writer = os.pipe()
    try:
        stream = PipeStream(reader)
        os.write(writer, b"one")
        assert await stream.receive() == b"one"
        with anyio.move_on_after(0.05) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        os.close(writer)
        with pytest.raises(EndOfStream):
            await stream.receive()
    finally:
        os.close(reader)


def test_a_file_to_store_can_come_out_of_a_pipe(tmp_path: Path):
    fifo, root = tmp_path / "fifo", tmp_path / "root"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"image" * 1000,))
    writer.start()
    with serve(Opendal(scheme="fs", kwargs={"root": str(root)})) as client:
        client.write_from_path("image", fifo)
    writer.join()
    assert (root / "image").read_bytes() == b"image" * 1000


def test_an_image_can_come_out_of_a_pipe(tmp_path: Path):
    data = os.urandom(3 << 20)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    with serve(MockFlasher()) as client:
        client.flash(fifo)
        writer.join(10)
        client.dump(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == data


def test_a_dump_can_go_to_a_device(tmp_path: Path):
    (tmp_path / "image").write_bytes(b"x" * 100)
    with serve(MockFlasher()) as client:
        client.flash(tmp_path / "image")
        client.dump("/dev/null")
    assert not os.path.isfile("/dev/null")


PEAK = """
def peak():  # in MiB; unlike getrusage, not that of the process before exec
    return [int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:")][0]
"""

EXPORTER = f"""
import sys
from jumpstarter.exporter import Session
from jumpstarter_driver_opendal.driver import Opendal
with Session(root_device=Opendal(scheme="fs", kwargs={{"root": sys.argv[1]}})) as session, session.serve_unix() as path:
    print(path, flush=True)
    sys.stdin.read()
{PEAK}
print(peak())
"""

CLIENT = f"""
import sys
from contextlib import ExitStack
from anyio.from_thread import start_blocking_portal
from jumpstarter.client.client import client_from_path
with start_blocking_portal() as portal, ExitStack() as stack:
    with portal.wrap_async_context_manager(client_from_path(sys.argv[1], portal, stack, [], True)) as client:
        client.write_from_path("file", sys.argv[2])
        client.read_into_path("file", sys.argv[3])
{PEAK}
print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neither_side_needs_more_than_120_mib_for_a_file_of_256_mib(tmp_path: Path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    exporter = subprocess.Popen(
        [sys.executable, "-c", EXPORTER, str(tmp_path / "root")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert exporter.stdout is not None
        socket = exporter.stdout.readline().strip()
        command = [sys.executable, "-c", CLIENT, socket, str(source), str(tmp_path / "target")]
        client = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        peak, _ = exporter.communicate("", timeout=30)
    finally:
        exporter.kill()
        exporter.wait()
    assert (tmp_path / "target").stat().st_size == 256 << 20
    assert int(client.stdout) < 120
    assert int(peak) < 120
