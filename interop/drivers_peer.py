"""A process of the published release that serves and drives drivers for the tests, one thing after the other."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import PATIENCE, PROBE, Process, environment


class DriversPeer:
    """The process `probe/drivers_peer.py`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._answered = 0

    def __call__(self, do: str, **arguments: Any) -> Any:
        """Have something done, and return what came of it; fails with the traceback if it failed there."""
        self._process.say(json.dumps({"do": do, **arguments}))
        self._answered += 1
        wanted = self._answered
        lines = self._process.until(
            lambda: complete if len(complete := self._complete()) >= wanted else None, f"{do} is done", PATIENCE
        )
        answer = json.loads(lines[wanted - 1])
        assert "error" not in answer, f"{do} of the published release:\n{answer['error']}\n{self._process}"
        return answer["result"]

    def _complete(self) -> list[str]:
        return [line for line in self._process.output.splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def drivers_peer(release: Path, folder: Path) -> Generator[DriversPeer, None, None]:
    """Run the process while the body runs."""
    # Drivers of a release of another time may be named by anybody in this process alone.
    env = environment(folder, JMP_DRIVERS_ALLOW="UNSAFE")
    with Process([release / "python", PROBE / "drivers_peer.py"], folder / "peer", env) as process:
        yield DriversPeer(process)
