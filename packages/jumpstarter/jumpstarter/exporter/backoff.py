"""How long to wait before trying again: longer each time, and never at the same moment as everybody else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

BASE = 0.5
"""Longest first wait, in seconds."""

CAP = 15.0
"""Longest wait, in seconds; short enough that a device is back soon after its controller is."""


@dataclass
class Backoff:
    """Waits that double from `base` to `cap` seconds, each shortened by up to a half at random."""

    base: float = BASE
    cap: float = CAP
    chance: Callable[[], float] = random.random
    """Gives a number from 0 to 1."""
    attempts: int = field(default=0, init=False)

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        longest = min(self.cap, self.base * 2 ** min(self.attempts, 30))
        self.attempts += 1
        return longest * (1 - self.chance() / 2)

    def reset(self) -> None:
        """Note a success."""
        self.attempts = 0
