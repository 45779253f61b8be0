"""Figures of CAN frames through the exporter, set against python-can's own bus inside one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parent / "parts"
FRAMES = 40_000
FRAMES_PUBLISHED = 1_000
"""Fewer for a release that takes milliseconds for each."""

WIRE_RATE = 20_000
"""Frames per second; a CAN bus of 1 Mbit/s carries 8,000 full ones or 18,000 empty ones at most."""


@dataclass(frozen=True)
class Figure:
    """One figure of ours and of the published release; `goal` is the least that it ought to be."""

    name: str
    unit: str
    ours: float
    theirs: float | None
    goal: float | None


def has_driver(release: Path) -> bool:
    """Tell whether the CAN driver is installed beside a release."""
    command = [release / "python", "-c", "import jumpstarter_driver_can.driver"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def figures(
    published: Path | None,
    folder: Path,
    serving: Callable[[list[Any]], AbstractContextManager[Any]],
    measure: Callable[..., dict[str, float]],
    rounds: int,
) -> Iterator[Figure]:
    """Measure `rounds` times in turn; of each the least disturbed round counts."""
    ours = Path(sys.executable).parent
    releases = {"ours": ours}
    if published is not None and has_driver(published):
        releases["theirs"] = published
    seen: dict[str, list[dict[str, float]]] = {"local": [], "ours": [], "theirs": []}
    script = PARTS / "measure_can.py"
    for _ in range(rounds):
        seen["local"].append(measure([ours / "python", script, "local", FRAMES]))
        for name, release in releases.items():
            socket = folder / f"can-{name}"
            socket.unlink(missing_ok=True)
            count = FRAMES if name == "ours" else FRAMES_PUBLISHED
            with serving([release / "python", PARTS / "serve.py", socket, "can"]):
                seen[name].append(measure([release / "python", script, "client", count], JUMPSTARTER_HOST=str(socket)))

    def value(name: str, what: str, choose: Callable[..., float]) -> float | None:
        return choose(found[what] for found in seen[name]) if seen[name] else None

    local_rate = value("local", "rate", max) or 1
    rate, trip = value("ours", "rate", max) or 0, value("ours", "trip", min) or 0
    theirs_rate, theirs_trip = value("theirs", "rate", max), value("theirs", "trip", min)
    name = "CAN frames from one client through the exporter to another"
    yield Figure(name, "x local python-can bus", rate / local_rate, theirs_rate and theirs_rate / local_rate, 0.5)
    yield Figure("the same", "frames per second", rate, theirs_rate, WIRE_RATE)
    yield Figure("a CAN frame there and one back", "ms", trip * 1000, theirs_trip and theirs_trip * 1000, None)
