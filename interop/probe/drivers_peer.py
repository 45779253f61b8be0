"""Serve and drive drivers as one line of JSON on standard input tells each time; answers are lines on standard output.

Runs in the environment of any release, with its public names only, so that one start of Python serves many tests.
"""

from __future__ import annotations

import importlib
import json
import linecache
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import drive_drivers
from jumpstarter.exporter import Session

served = ExitStack()

# Tracebacks name files and lines of the release, and don't quote them: it is a black box.
linecache.updatecache = lambda *_, **__: []


def serve(device: Any, env: dict[str, str]) -> str:
    """Serve a driver beside what is served already; returns the path of its socket."""
    os.environ.update(env)
    session = served.enter_context(Session(root_device=drive_drivers.instantiate(device)))
    return str(served.enter_context(session.serve_unix()))


def stop() -> None:
    """End what is served."""
    served.close()


def drive(part: str, socket: str, args: dict[str, Any]) -> Any:
    """Drive what is served on a socket; returns what was seen."""
    os.environ["JUMPSTARTER_HOST"] = socket
    return drive_drivers.drive(part, args)


def clients(drivers: list[str]) -> dict[str, str | None]:
    """Return which client class each of these driver classes names; None for a driver that can't be imported."""
    return {name: cls.client() if (cls := find(name)) is not None else None for name in drivers}


def importable(names: list[str]) -> dict[str, bool]:
    """Tell which of these classes there are."""
    return {name: find(name) is not None for name in names}


def find(name: str) -> Any:
    """Return the class of a dotted path, or None."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None


def main() -> None:
    """Do what the lines say until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what drivers and programs print is no answer
    logging.basicConfig(level=logging.INFO)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": ACTIONS[request.pop("do")](**request)}
        except BaseException:  # noqa: BLE001 (what is raised is the answer)
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, default=str), file=answers, flush=True)
    stop()


ACTIONS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (serve, stop, drive, clients, importable)}

if __name__ == "__main__":
    main()
