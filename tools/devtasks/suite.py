"""Running the tests with the real components that they need."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import debian
from .base import ROOT, run, run_beside, say, warn
from .workspace import setup, tool

EVERYDAY = "not slow and not interop and not faults"
WAITING = "interop or faults or lab_guest or device"
"""Tests that take long, and for most of the time wait for something, so that others can run beside them."""

OTHERS = f"not ({WAITING})"

DRIVERS = "packages/jumpstarter-driver-*"

PARTS: tuple[tuple[str, ...], ...] = (
    ("-m", OTHERS, f"--ignore-glob={DRIVERS}"),
    ("-m", OTHERS, *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(DRIVERS)))),
    ("-m", WAITING),
)
"""All tests, in runs of about the same length; most of the time each of them waits for something."""

TESTS_FAILED = 1
"""Exit code of pytest when tests ran and some failed, and nothing else was wrong."""


def task_test(arguments: list[str]) -> None:
    """run the tests (--all: slow ones too; other arguments go to pytest)

    As root, the real components come through apt first. Elsewhere the tests that miss one are skipped with the line
    that installs it; with JMP_REQUIRE_REAL=1 they fail, and the slow, the interop and the fault tests run as well.
    """
    parser = argparse.ArgumentParser(prog="./dev test", add_help=False, allow_abbrev=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    options, rest = parser.parse_known_args(arguments)

    required = os.environ.get("JMP_REQUIRE_REAL") == "1"
    setup()
    if not options.no_install:
        # Two runs: the small daemons first, so that a failure in the big one costs only its own tier.
        debian.provide("daemon", required=required)
        debian.provide("device", "lab_guest", "browser", required=required)
    everything = options.all or required
    pytest: list[str | Path] = [tool("python"), "-m", "pytest"]
    if not everything:
        say("everyday tests; ./dev test --all runs the slow, the interop and the fault tests too")
    if rest:
        selection = [] if everything or "-m" in rest else ["-m", EVERYDAY]
        run([*pytest, *selection, *rest])
        return
    _run_in_parts(pytest, "" if everything else f" and {EVERYDAY}")


def _run_in_parts(pytest: Sequence[str | Path], condition: str) -> None:
    """Run all tests for which a condition holds, in several runs at a time; then those that failed once more, alone.

    Several runs make a small machine busy beyond what real components stand for everywhere. A test that passes alone
    was disturbed; it is named all the same.
    """
    parts = [
        [*pytest, "-m", f"({selection}){condition}", *paths, "-o", f"cache_dir={_cache(number)}"]
        for number, (_, selection, *paths) in enumerate(PARTS)
    ]
    for failure in run_beside(*parts):
        if failure.code != TESTS_FAILED:
            raise failure
        warn("some tests failed; once more, with nothing beside them:")
        run([*failure.command, "--last-failed", "--last-failed-no-failures", "none"])
        warn("the tests above failed at first, and passed alone")


def _cache(part: int) -> Path:
    """Return an empty folder for what pytest remembers of a run."""
    folder = ROOT / ".cache" / f"pytest-{part}"
    shutil.rmtree(folder, ignore_errors=True)
    return folder
