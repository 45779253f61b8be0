"""What the test of the board records: its steps, its console and its screen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

import pytest

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What terminals act on instead of showing it."""

Step = Callable[[str], AbstractContextManager[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --artifacts."""
    parser.addoption("--artifacts", type=Path, default=Path("demo-artifacts"), help="folder for what is recorded")


@pytest.fixture(scope="session")
def artifacts(pytestconfig: pytest.Config) -> Path:
    """The folder for what is recorded."""
    folder: Path = pytestconfig.getoption("--artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def step() -> Step:
    """Print what is being done, and how long it took."""

    @contextmanager
    def measured(what: str) -> Iterator[None]:
        print(f"\n--> {what}", flush=True)
        started = time.monotonic()
        try:
            yield
        except BaseException:
            print(f"    FAILED after {time.monotonic() - started:.1f} s", flush=True)
            raise
        print(f"    done in {time.monotonic() - started:.1f} s", flush=True)

    return measured


class ConsoleLog:
    """Writes what a console says to a file, each line with the time, and shows it; for `logfile_read` of pexpect."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._line = b""

    def write(self, data: bytes) -> None:
        """Take a piece of output."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._put(line)

    def flush(self) -> None:
        """Do nothing: lines are written when they are complete."""

    def finish(self) -> None:
        """Write the line that has no end yet."""
        if self._line:
            self._put(self._line)
            self._line = b""

    def _put(self, line: bytes) -> None:
        plain = CONTROL_SEQUENCE.sub("", line.decode(errors="replace"))
        text = "".join(letter for letter in plain if letter.isprintable())
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
        self._file.write(f"{now} {text}\n")
        self._file.flush()
        print(f"    | {text}", flush=True)


@pytest.fixture(scope="session")
def console_log(artifacts: Path) -> Iterator[ConsoleLog]:
    """The log of the board's console, console.log."""
    with (artifacts / "console.log").open("w") as file:
        log = ConsoleLog(file)
        yield log
        log.finish()
