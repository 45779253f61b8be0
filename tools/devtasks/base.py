"""Paths of the checkout, progress lines and running a command."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
CACHE = ROOT / ".cache"


class DevError(Exception):
    """A task can't go on; the message says why and what to do."""


class CommandFailed(DevError):
    """A command that a task ran ended with another exit code than 0."""

    def __init__(self, command: Sequence[str | Path], code: int) -> None:
        words = " ".join(str(part) for part in command)
        short = words if len(words) <= 200 else words[:200] + " ..."
        reason = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        super().__init__(f"{reason}: {short}")
        self.command = list(command)
        self.code = code


def say(text: str) -> None:
    """Print a progress line."""
    print(f"\033[1m==>\033[0m {text}" if sys.stdout.isatty() else f"==> {text}", flush=True)


def warn(text: str) -> None:
    """Print a line that deserves attention."""
    print(f"\033[33m==> {text}\033[0m" if sys.stderr.isatty() else f"==> {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], *, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command in the repository root; raise CommandFailed when it fails.

    With `quiet`, what it prints is shown only then.
    """
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        check=False,
    )
    if result.returncode != 0:
        if quiet and result.stdout:
            sys.stdout.buffer.write(result.stdout)
            sys.stdout.flush()
        raise CommandFailed(command, result.returncode)


def run_beside(command: Sequence[str | Path], *others: Sequence[str | Path]) -> list[CommandFailed]:
    """Run commands at the same time in the repository root, and show what the other ones printed afterwards.

    Returns:
        What failed, when all have ended.
    """
    failures = []
    with contextlib.ExitStack() as stack:
        beside = []
        for other in others:
            printed = stack.enter_context(tempfile.TemporaryFile())
            words = [str(part) for part in other]
            process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
            beside.append((other, stack.enter_context(process), printed))
        try:
            run(command)
        except CommandFailed as error:
            failures.append(error)
        except BaseException:
            for _, process, _ in beside:
                process.terminate()
            raise
        for other, process, printed in beside:
            code = process.wait()
            say(f"meanwhile: {' '.join(str(part) for part in other)}")
            printed.seek(0)
            shutil.copyfileobj(printed, sys.stdout.buffer)
            sys.stdout.flush()
            if code != 0:
                failures.append(CommandFailed(other, code))
    return failures


def succeeds(command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> bool:
    """Tell whether a command exists and ends with exit code 0; its output is dropped."""
    words = [str(part) for part in command]
    try:
        finished = subprocess.run(words, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, check=False)
    except OSError:
        return False
    return finished.returncode == 0
