"""Running the tests with the real components that they need."""

from __future__ import annotations

import argparse
import os

from . import debian
from .base import run, say
from .workspace import setup, tool

EVERYDAY = "not slow and not interop"

WORKERS = "2"
"""Processes that share the tests, file by file."""


def task_test(arguments: list[str]) -> None:
    """run the tests (--all: slow ones too; other arguments go to pytest)

    As root, the real components come through apt first. Elsewhere the tests that miss one are skipped with the line
    that installs it; with JMP_REQUIRE_REAL=1 they fail, and the slow and the interop tests run as well.
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
    selection = [] if options.all or required or "-m" in rest else ["-m", EVERYDAY]
    if selection:
        say("everyday tests; ./dev test --all runs the slow and the interop ones too")
    # Much of the time is waiting. Whoever asks for certain tests sees them one after the other.
    spread = [] if rest else ["-n", WORKERS, "--dist", "loadfile"]
    run([tool("python"), "-m", "pytest", *spread, *selection, *rest])
