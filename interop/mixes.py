"""The four pairs of releases as client and exporter: a test runs them all at once, each with its own exporter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lab import Client, Exporter, Lab

PAIRS = ("ours-to-ours", "ours-to-published", "published-to-ours", "published-to-published")
"""Client, then exporter."""

POWER = {"power": {"type": "jumpstarter_driver_power.driver.MockPower"}}

HOLD = ("sh", "-c", "echo held; cat")
"""A command of a shell that says that it runs, and lasts as long as its input."""


@dataclass(frozen=True)
class Mix:
    """One pair, for one test."""

    lab: Lab
    release: Path
    """Bin folder of the client."""
    other: Path
    """Bin folder of the release that the client isn't."""
    exporter: Exporter
    folder: Path
    """An empty one."""
    name: str

    def client(self, who: str = "alice") -> Client:
        """Return a client that only this test has."""
        return self.lab.client(f"{who}-{self.name}")

    @property
    def power(self) -> tuple[Any, ...]:
        """The arguments of `jmp shell` that show that a lease can be used."""
        return power(self.release)

    @property
    def select(self) -> tuple[str, ...]:
        """The arguments that ask for the exporter."""
        return ("--selector", f"name={self.exporter.name}", "--duration", "5m")

    def waiting(self) -> int:
        """Return how many wait for the exporter."""
        return int(self.exporter.state.state.waiting)


def power(release: Path) -> tuple[Any, ...]:
    """Return the arguments of `jmp shell` of a release that show that a lease can be used."""
    return ("--", release / "j", "power", "on")


@dataclass
class Mixes:
    """A lab with four exporters, one for each pair."""

    lab: Lab
    releases: Mapping[str, Path]
    exporters: Mapping[str, Exporter]
    threads: ThreadPoolExecutor
    folder: Callable[[str], Path]
    futures: dict[tuple[str, str], Future[None]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def result(self, request: pytest.FixtureRequest, body: Callable[[Mix], None], pair: str) -> None:
        """Run a test with a pair; at the first pair of a test, all others that were selected begin as well."""
        node = request.node
        if (node.originalname, pair) not in self.futures:
            selected = [
                item.callspec.params["pair"]
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and (item.path, item.originalname) == (node.path, node.originalname)
            ]
            for each in selected:
                self.futures[node.originalname, each] = self.threads.submit(self._run, body, each)
        self.futures[node.originalname, pair].result()

    def _run(self, body: Callable[[Mix], None], pair: str) -> None:
        client = pair.partition("-to-")[0]
        other = "published" if client == "ours" else "ours"
        exporter = self.exporters[pair]
        name = f"{next(self.numbers)}"
        exporter.until("AVAILABLE", free=True)
        body(Mix(self.lab, self.releases[client], self.releases[other], exporter, self.folder(f"mix-{name}"), name))
        exporter.until("AVAILABLE", free=True)


Body = Callable[[Mix], None]


def in_mixes(*pairs: str) -> Callable[[Body], Callable[..., None]]:
    """Make a function of a mix a test of some pairs, which needs the fixture `mixes` of its module."""

    def wrap(body: Body) -> Callable[..., None]:
        @pytest.mark.parametrize("pair", pairs)
        def test(request: pytest.FixtureRequest, mixes: Mixes, pair: str) -> None:
            mixes.result(request, body, pair)

        test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
        return test

    return wrap


in_every_mix = in_mixes(*PAIRS)

in_both_mixes = in_mixes(
    *(PAIRS if os.environ.get("JMP_INTEROP_ALL") == "1" else ("ours-to-published", "published-to-ours"))
)
"""For what one end does alone: each release at each end, and all pairs with `JMP_INTEROP_ALL=1`."""


def open_mixes(
    stack: ExitStack,
    lab: Lab,
    releases: Mapping[str, Path],
    folder: Callable[[str], Path],
    export: Callable[[], Mapping[str, Any]] = lambda: POWER,
    **config: Any,
) -> Mixes:
    """Run an exporter for every pair until the stack is closed; `config` is for all of them."""
    threads = stack.enter_context(ThreadPoolExecutor(len(PAIRS)))

    def start(pair: str) -> Any:
        release = pair.partition("-to-")[2]
        context = lab.exporter(releases[release], pair, export(), labels={"release": release}, **config)
        return context, context.__enter__()

    exporters = {}
    for pair, (context, exporter) in zip(PAIRS, threads.map(start, PAIRS), strict=True):
        stack.push(context)
        exporters[pair] = exporter
    return Mixes(lab, releases, exporters, threads, folder)
