"""The demonstration: a virtual board is powered, flashed, booted and tested, as a user would do it.

The scenario itself is examples/qemu-board/demo.py. It takes `--artifacts FOLDER`, leaves what it recorded there (the
result as junit.xml among it), and ends with exit code 0 when everything that it shows worked.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from . import debian
from .base import ROOT, CommandFailed, DevError, run, say
from .workspace import setup, tool

SCENARIO = ROOT / "examples" / "qemu-board" / "demo.py"
ARTIFACTS = ROOT / "demo-artifacts"


def task_demo(arguments: list[str]) -> None:
    """boot a virtual board and put it through a test (--artifacts FOLDER: where to keep what it records)"""
    parser = argparse.ArgumentParser(prog="./dev demo", add_help=False, allow_abbrev=False)
    parser.add_argument("--artifacts", type=Path, default=ARTIFACTS)
    parser.add_argument("--no-install", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    artifacts = options.artifacts.expanduser().resolve()

    setup()
    if not options.no_install:
        debian.provide("device")
    if not SCENARIO.exists():
        raise DevError(f"{SCENARIO.relative_to(ROOT)} is missing from this checkout")
    if artifacts == ARTIFACTS:  # nobody else's files lie there
        shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    try:
        run([tool("python"), SCENARIO, "--artifacts", artifacts, *rest])
    except CommandFailed:
        say(f"what was recorded until it failed is in {artifacts}")
        raise
    say(f"what was recorded is in {artifacts}")
