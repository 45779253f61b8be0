"""The demonstration: a virtual board is powered, flashed, booted and tested, as a user would do it.

The scenario itself is examples/qemu-board/demo.py. It takes `--artifacts FOLDER`, leaves what it recorded there (the
result as junit.xml among it), and ends with exit code 0 when everything that it shows worked.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from . import debian
from .base import ROOT, CommandFailed, run, say
from .debian import components
from .workspace import setup, tool

SCENARIO = ROOT / "examples" / "qemu-board" / "demo.py"
NEEDED = ("e2fsprogs", "qemu-img", "qemu-x86_64")
"""The components without which the virtual board can't run."""

FALLBACK = ROOT / "examples" / "heater"
ARTIFACTS = ROOT / "demo-artifacts"


def task_demo(arguments: list[str]) -> None:
    """boot a virtual board and put it through a test (--artifacts FOLDER: where to keep what it records)

    Installs QEMU through apt as root. Where it is missing and may not be installed, a simulated device is shown, and
    the exit code is that of its tests.
    """
    parser = argparse.ArgumentParser(prog="./dev demo", add_help=False, allow_abbrev=False)
    parser.add_argument("--artifacts", type=Path, default=ARTIFACTS)
    parser.add_argument("--no-install", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    artifacts = options.artifacts.expanduser().resolve()

    setup()
    packages = [package for name in NEEDED if components()[name].missing() for package in components()[name].packages]
    if not options.no_install:
        debian.provide_packages(packages, "virtual board")
    if artifacts == ARTIFACTS:  # nobody else's files lie there
        shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [tool("python"), SCENARIO, "--artifacts", artifacts, *rest]
    if missing := _missing():
        say(f"the virtual board needs {', '.join(missing)}; showing a simulated heating plate instead")
        junit = artifacts / "junit.xml"
        command = [tool("python"), "-m", "pytest", "-v", "--no-header", "--junitxml", junit, FALLBACK, *rest]
    try:
        run(command)
    except CommandFailed:
        say(f"what was recorded until it failed is in {artifacts}")
        raise
    say(f"what was recorded is in {artifacts}")


def _missing() -> list[str]:
    return [program for name in NEEDED for program in components()[name].missing()]
