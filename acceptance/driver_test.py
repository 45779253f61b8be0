"""Drivers that raise and drivers that block: one readable error for the one who called, nothing for anybody else."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from jumpstarter_testing import eventually

from .conftest import Bench, Journal
from .programs import J, Outcome, Program

Run = Callable[..., Outcome]
Start = Callable[..., Program]
OpenBench = Callable[..., Bench]


@pytest.mark.parametrize(
    "kind", ["RuntimeError", "ValueError", "KeyError", "OSError", "TimeoutError", "NotImplementedError"]
)
def test_what_a_driver_raises_is_one_readable_message(kind: str, trouble: str, in_shell: Run) -> None:
    message = in_shell(trouble, J, "trouble", "fail", kind, "the fuse of the board is blown").failure()
    assert "the fuse of the board is blown" in message


@pytest.mark.parametrize("kind", ["RuntimeError", "ZeroDivisionError", "TimeoutError"])
def test_an_exception_without_a_text_is_told_by_its_name(kind: str, trouble: str, in_shell: Run) -> None:
    assert kind in in_shell(trouble, J, "trouble", "fail", kind).failure()


def test_a_stream_of_results_that_fails_keeps_what_came_before(trouble: str, in_shell: Run) -> None:
    result = in_shell(trouble, J, "trouble", "fail-midway")
    assert result.out == "first\n"
    assert "the needle is stuck" in result.failure()


def test_a_byte_stream_that_cannot_be_opened_is_told(trouble: str, in_shell: Run) -> None:
    assert "the probe is unplugged" in in_shell(trouble, J, "trouble", "open-broken").failure()


def test_a_driver_works_again_after_a_failure(trouble: str, bench: OpenBench, run: Run) -> None:
    env = bench(trouble).env
    run(J, "trouble", "fail", "RuntimeError", "once", env=env).failure()
    assert run(J, "trouble", "ping", env=env).out == "pong\n"


def test_a_driver_that_cannot_be_closed_does_not_keep_its_neighbours_open(
    config: Callable[..., str], in_shell: Run, journal: Journal
) -> None:
    path = config(first={"type": "Trouble"}, bad={"type": "FailingClose"}, last={"type": "Trouble"})
    result = in_shell(path, J, "first", "ping")
    assert (result.code, result.out) == (0, "pong\n")
    assert "the relay is stuck" in result.err
    assert journal.lines == ["opened"] * 3 + ["closed"] * 3


LATENCY = """\
import time
from jumpstarter.common.utils import env
with env() as client:
    client.trouble.call("ping")
    slowest = 0
    for _ in range(50):
        begin = time.perf_counter()
        client.trouble.call("ping")
        slowest = max(slowest, time.perf_counter() - begin)
print(slowest)
"""


@pytest.mark.parametrize(("blocking", "output"), [("block", "released\n"), ("drip", "first\nreleased\n")])
def test_a_driver_that_blocks_freezes_nothing_else(
    blocking: str, output: str, trouble: str, bench: OpenBench, start: Start, run: Run, journal: Journal
) -> None:
    """A blocking function, and a blocking generator, wait for a call that could not come if they froze others."""
    env = bench(trouble).env
    blocked = start(J, "trouble", blocking, env=env)
    journal.wait_for("blocking")
    slowest = run(sys.executable, "-c", LATENCY, env=env)
    assert float(slowest.out) < 1, slowest
    run(J, "trouble", "release", env=env)
    assert blocked.end() == (0, output, "")


def test_forty_blocked_calls_leave_room_for_others(
    trouble: str, bench: OpenBench, run: Run, journal: Journal, start: Start
) -> None:
    env = bench(trouble).env
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from jumpstarter.common.utils import env\n"
        "with env() as client, ThreadPoolExecutor(40) as pool:\n"
        "    print({*pool.map(client.trouble.call, ['block'] * 40)})\n"
    )
    blocked = start(sys.executable, "-c", program, env=env)

    def all_blocked() -> None:
        assert journal.lines.count("blocking") == 40

    eventually(all_blocked, timeout=20)
    assert run(J, "trouble", "ping", env=env).out == "pong\n"
    run(J, "trouble", "release", env=env)
    assert blocked.end().out == "{'released'}\n"
