"""Progress is counted for each direction, shown where it can be, and costs nothing where it can't."""

from __future__ import annotations

import io
import itertools
import logging
import sys
from collections.abc import Callable

import anyio
import pytest
from anyio.abc import ObjectStream

from jumpstarter.streams import progress
from jumpstarter.streams.progress import ProgressAttribute, ProgressStream


class Wire(ObjectStream[bytes]):
    def __init__(self, *chunks: bytes, total: float | None = None) -> None:
        self.chunks, self.total, self.sent = list(chunks), total, []

    async def receive(self) -> bytes:
        if not self.chunks:
            raise anyio.EndOfStream
        return self.chunks.pop(0)

    async def send(self, item: bytes) -> None:
        self.sent.append(item)

    async def send_eof(self) -> None:
        self.sent.append(b"EOF")

    async def aclose(self) -> None:
        self.sent.append(b"CLOSED")

    @property
    def extra_attributes(self) -> dict[object, Callable[[], object]]:
        return {} if self.total is None else {ProgressAttribute.total: lambda: self.total}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; to be called within a test, as pytest sets stderr anew when it begins."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second each time it is read."""
    ticks = itertools.count(1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.mark.parametrize("show", ["nothing", "lines", "bar"])
async def test_bytes_pass_unchanged_in_both_directions(monkeypatch: pytest.MonkeyPatch, show: str) -> None:
    terminal = on_terminal(monkeypatch)
    if show == "nothing":
        monkeypatch.setenv("TERM", "dumb")
    wire = Wire(b"one", b"two", total=6)
    async with ProgressStream(stream=wire, logging=show == "lines") as stream:
        await stream.send(b"sent before anything is received")
        assert [chunk async for chunk in stream] == [b"one", b"two"]
        await stream.send_eof()
        assert stream.extra(ProgressAttribute.total) == 6
    assert wire.sent == [b"sent before anything is received", b"EOF", b"CLOSED"]
    assert bool(terminal.getvalue()) == (show == "bar")


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TQDM_DISABLE", "1")])
async def test_when_off_the_methods_are_those_of_the_inner_stream(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    on_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    wire = Wire()
    stream = ProgressStream(stream=wire)
    assert (stream.receive, stream.send) == (wire.receive, wire.send)


async def test_a_pipe_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    async with ProgressStream(stream=Wire(b"x" * 1000)) as stream:
        await stream.receive()
    assert pipe.getvalue() == ""


@pytest.mark.usefixtures("seconds")
async def test_the_bar_shows_amount_and_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    async with ProgressStream(stream=Wire(*[b"x" * 1024] * 4, total=4096)) as stream:
        async for _ in stream:
            pass
    assert "transfer" in terminal.getvalue()
    assert "4.0/4.0 KiB" in terminal.getvalue()


async def test_a_stream_whose_maker_shows_its_progress_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown(Wire):
        @property
        def extra_attributes(self) -> dict[object, Callable[[], object]]:
            return {ProgressAttribute.shown: lambda: True}

    terminal = on_terminal(monkeypatch)
    await ProgressStream(stream=Shown(b"a")).receive()
    assert terminal.getvalue() == ""


async def test_two_transfers_share_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch)
    async with ProgressStream(stream=Wire(b"a")) as one, ProgressStream(stream=Wire(b"b")) as other:
        await one.receive()
        await other.receive()
        assert len(progress._Bar._display.tasks) == 2
    assert progress._Bar._display is None


async def test_breaking_off_reaches_the_inner_stream() -> None:
    class Abortable(Wire):
        def abort(self) -> None:
            self.sent.append(b"ABORTED")

    wire = Abortable()
    ProgressStream(stream=wire).abort()
    assert wire.sent == [b"ABORTED"]
    ProgressStream(stream=Wire()).abort()


async def test_lines_are_sampled_by_time(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = ProgressStream(stream=Wire(*[b"x" * 1024] * 6, total=6144), logging=True)
    for _ in range(5):
        await stream.receive()
        now += 1
    await stream.aclose()
    assert [record.getMessage() for record in caplog.records] == [
        "transfer: 3.0 KiB of 6.0 KiB (50%), 1.5 KiB/s",
        "transfer: 5.0 KiB of 6.0 KiB (83%), 1.2 KiB/s",
        "transfer finished: 5.0 KiB of 6.0 KiB (83%), 1.0 KiB/s",
    ]


async def test_without_a_total_the_amount_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with ProgressStream(stream=Wire(), logging=True) as stream:
        await stream.send(bytes(3 << 20))
    assert caplog.records[-1].getMessage().startswith("transfer finished: 3.0 MiB, ")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (5 << 40, "5120.0 GiB")]
)
def test_sizes_have_binary_units(size: int, text: str) -> None:
    assert progress._size(size) == text
