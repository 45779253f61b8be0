"""Follows all leases and exporters of a lab, and notices at once when an exporter has two leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from jumpstarter.client.controller.following import ChangeKind

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """Something that changed."""

    at: float
    """Monotonic time."""
    what: str
    """`lease` or `exporter`."""
    item: Any
    """The state: a `LeaseState` or an `ExporterState`."""


@dataclass
class Observer:
    """What a lab has told so far."""

    config: Any
    """Of a client that looks on."""
    leases: dict[str, Any] = field(default_factory=dict)
    """By name, also those that have ended."""
    exporters: dict[str, Any] = field(default_factory=dict)
    history: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _overlaps: dict[tuple[str, str], float] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)

    async def run(self) -> None:
        """Follow until cancelled, through losses of the controller."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._persist, self._follow_leases)
            tasks.start_soon(self._persist, self._follow_exporters)

    async def _persist(self, follow: Callable[[], Any]) -> None:
        while True:
            try:
                await follow()
            except Exception as error:  # noqa: BLE001 (an observer that gives up would hide what it is for)
                with self._news:
                    self.violations.append(f"the observer was refused: {error!r}")
            await anyio.sleep(1)

    async def _follow_leases(self) -> None:
        async for change in self.config.watch_leases():
            if change.item is not None:
                # What ended unseen is told as it was seen last.
                gone = {"ended": True} if change.kind is ChangeKind.DELETED else {}
                self._take("lease", self.leases, change.item.model_copy(update=gone))
            elif change.kind is ChangeKind.LOST:
                self._overlaps.clear()

    async def _follow_exporters(self) -> None:
        async for change in self.config.watch_exporters():
            if change.item is not None:
                self._take("exporter", self.exporters, change.item)

    def _take(self, what: str, known: dict[str, Any], item: Any) -> None:
        with self._news:
            known[item.name] = item
            self.history.append(Seen(time.monotonic(), what, item))
            self._check()
            self._news.notify_all()

    def _check(self) -> None:
        """Note exporters with two leases.

        The end of one and the begin of the next are one decision, but told one after the other.
        """
        now = time.monotonic()
        holders: dict[str, str] = {}
        present: dict[tuple[str, str], float] = {}
        for lease in self.leases.values():
            if lease.exporter and not lease.ended:
                other = holders.setdefault(lease.exporter, lease.name)
                if other != lease.name:
                    present[other, lease.name] = self._overlaps.get((other, lease.name), now)
        self._overlaps = present
        self.violations += [f"one exporter has the leases {pair}" for pair, since in present.items() if now > since + 1]

    def settle(self) -> None:
        """Check that no exporter has two leases once everything has been told.

        Raises:
            AssertionError: one has, or had.
        """
        self.wait(lambda seen: not seen._overlaps, 2, "no exporter has two leases")
        assert not self.violations, self.violations

    def wait(self, condition: Callable[[Observer], T], patience: float, what: str) -> T:
        """Wait until a condition returns something true, and return that.

        Raises:
            AssertionError: it did not in time.
        """
        deadline = time.monotonic() + patience
        with self._news:
            while True:
                found = condition(self)
                if found:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"not within {patience:g} s: {what}\n"
                        f"active leases: {[summary(item) for item in self.leases.values() if not item.ended]}\n"
                        f"exporters: {[summary(item) for item in self.exporters.values()]}"
                    )
                self._news.wait(min(left, 1.0))

    def moment(self, what: str, condition: Callable[[Any], Any], since: float = 0.0) -> float:
        """Return when a state was seen first that a condition is true of, at or after `since`."""
        for seen in self.history:
            if seen.what == what and seen.at >= since and condition(seen.item):
                return seen.at
        raise AssertionError(f"no such {what} was seen")


def summary(item: Any) -> str:
    """Return what matters of a state."""
    kept = ("name", "client", "exporter", "status", "online", "lease_name", "ended", "reason", "place", "last_seen")
    return ", ".join(f"{name}={value}" for name in kept if (value := getattr(item, name, None)) not in (None, ""))
