"""Building the documentation; a warning is an error, and nothing is fetched from the network."""

from __future__ import annotations

import shutil

from .base import ROOT, run, say
from .workspace import setup, tool

SOURCE = ROOT / "docs"
TARGET = SOURCE / "_build" / "html"


def task_docs(arguments: list[str]) -> None:
    """build the documentation into docs/_build/html"""
    setup()
    shutil.rmtree(TARGET, ignore_errors=True)  # so that no page of an earlier build is left behind
    run([tool("sphinx-build"), "-W", "--keep-going", "-n", "-q", "-b", "html", *arguments, SOURCE, TARGET])
    say(f"open {TARGET / 'index.html'}")
