"""Keeps the garbage collector from searching what a program loads, which lives as long as the process anyway."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Leave out garbage collection while the body imports modules, and what they made later on.

    Imports make so many objects that the collector runs dozens of times, and finds next to nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def ending() -> None:
    """Let the interpreter end without a last search through everything, which is a sixth of a short run."""
    gc.freeze()
