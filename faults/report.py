"""The table of what was done at which step and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Outcome:
    """What came of one fault."""

    fault: str
    """Kind and victim."""
    step: str
    passed: bool = False
    recovered: float | None = None
    """Seconds from the end of the fault until the board was leased, used and given back by the next one."""
    noticed: float | None = None
    """Seconds until a dead exporter was known to be dead."""
    granted: float | None = None
    """Seconds from when the board was free until the one who waited had it."""
    remark: str = ""

    def __str__(self) -> str:
        if not self.passed:
            return "FAILED"
        parts = [
            f"{value:.1f}{mark}" for value, mark in ((self.recovered, " s"), (self.noticed, " n")) if value is not None
        ]
        return ", ".join(filter(None, [*parts, self.remark])) or "ok"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes, one line each, in columns."""
    lines = [("fault", "step", "recovered", "grant")]
    lines += [
        (each.fault, each.step, str(each), f"{each.granted * 1000:.0f} ms" if each.granted is not None else "")
        for each in outcomes
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
