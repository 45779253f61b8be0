"""Two hundred drivers and two hundred streams at once through one exporter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Bench
from .programs import J, Outcome, Program

COUNT = 200

Config = Callable[..., str]
Run = Callable[..., Outcome]
OpenBench = Callable[..., Bench]
Exporter = Callable[[str], tuple[Program, list[str]]]

# Every stream is open before the first one is used, and every driver gets back what was sent to it.
STREAMS = f"""\
import sys
import anyio
from anyio.from_thread import BlockingPortal
from contextlib import ExitStack
from jumpstarter.utils.env import env_async

COUNT = {COUNT}

async def main():
    all_open, open_now, done = anyio.Event(), [0], []

    async def use(number, driver):
        async with driver.stream_async("echo") as stream:
            open_now[0] += 1
            if open_now[0] == COUNT:
                all_open.set()
            await all_open.wait()
            for round in range(3):
                text = f"{{number}}/{{round}}".encode() * 500
                await stream.send(text)
                received = b""
                while len(received) < len(text):
                    received += await stream.receive()
                assert received == text, number
            done.append(number)

    with anyio.fail_after(50), ExitStack() as stack:
        async with BlockingPortal() as portal, env_async(portal, stack) as client:
            drivers = list(client.children.values())
            async with anyio.create_task_group() as tasks:
                for number in range(COUNT):
                    tasks.start_soon(use, number, drivers[number % len(drivers)])
    print(len(drivers), len(done))

anyio.run(main)
"""


@pytest.fixture
def many(config: Config) -> str:
    """The config of an exporter with so many drivers."""
    return config(**{f"device{number}": {"type": "Trouble"} for number in range(COUNT)})


def test_two_hundred_drivers_are_there_and_work(many: str, bench: OpenBench, run: Run) -> None:
    env = bench(many).env
    listed = run(J, "--help", env=env).out
    assert listed.count("  device") == COUNT
    assert run(J, f"device{COUNT - 1}", "ping", env=env).out == "pong\n"


def test_two_hundred_streams_of_as_many_drivers_at_once(many: str, bench: OpenBench, run: Run) -> None:
    assert run(sys.executable, "-c", STREAMS, env=bench(many).env) == (0, f"{COUNT} {COUNT}\n", "")


def test_two_hundred_streams_at_once_over_tcp(trouble: str, exporter: Exporter, bench: OpenBench, run: Run) -> None:
    program, options = exporter(trouble)
    env: Any = bench("", *options).env
    assert run(sys.executable, "-c", STREAMS, env=env) == (0, f"1 {COUNT}\n", "")
    # None of it is left: the exporter still answers and has nothing open but what it listens on.
    assert run(J, "trouble", "ping", env=env).out == "pong\n"
    assert program.process.poll() is None
