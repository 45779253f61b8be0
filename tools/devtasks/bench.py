"""The benchmarks, whose figures are set against a limit of the machine and against the published release."""

from __future__ import annotations

from .base import ROOT, run
from .workspace import setup, tool


def task_bench(arguments: list[str]) -> None:
    """measure speed and memory (arguments go to benchmarks/run.py)"""
    setup()
    run([tool("python"), ROOT / "benchmarks" / "run.py", *arguments])
