"""A lab of real processes for the tests, made anew when a test has left it broken; a table of what happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import BOARDS, DRIVERS, FaultLab, Template
from .life import Bystander
from .report import Outcome, table

OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark all tests of this folder."""
    item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session", autouse=True)
def drivers_in_reach() -> Iterator[None]:
    """Let this process import the clients of the drivers here."""
    sys.path.append(str(DRIVERS))
    yield
    sys.path.remove(str(DRIVERS))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The accounts of all labs."""
    return Template.make(tmp_path_factory.mktemp("template"))


@pytest.fixture
def fresh_lab(template: Template, tmp_path: Path) -> Iterator[Callable[..., FaultLab]]:
    """Start labs of the test's own."""
    started: list[FaultLab] = []

    def start(**options: Any) -> FaultLab:
        started.append(FaultLab(template, tmp_path / f"lab-{len(started)}", **options))
        return started[-1].__enter__()

    yield start
    for lab in started:
        lab.close()


class Shared:
    """A lab that tests use one after the other, with carol's stream; made anew after a test that failed."""

    def __init__(self, template: Template, folder: Callable[[], Path]) -> None:
        self._template, self._folder = template, folder
        self._lab: FaultLab | None = None
        self._bystander: Bystander | None = None

    def get(self) -> tuple[FaultLab, Bystander]:
        """Return the lab, all of it in order."""
        if self._lab is None:
            self._lab = FaultLab(self._template, self._folder()).__enter__()
        self._lab.wait_routed()
        if self._bystander is None:
            self._lab.wait_available(*BOARDS)
            self._bystander = Bystander(self._lab)
        self._lab.wait_available("board-1")
        return self._lab, self._bystander

    def drop_bystander(self) -> None:
        """Have another stream opened next time; the present one was harmed on purpose."""
        if self._bystander is not None:
            self._bystander.shell.close()
            assert self._lab is not None
            for name in [item.name for item in self._lab.observer.leases.values() if item.client == "carol"]:
                if not self._lab.observer.leases[name].ended:
                    self._lab.release("carol", name)
        self._bystander = None

    def drop(self, *, tell: bool = False) -> None:
        """Have another lab started next time; `tell` what the programs of this one said."""
        if self._lab is not None:
            self._lab.close()
            if tell:
                print(self._lab.told())
        self._lab = self._bystander = None


@pytest.fixture(scope="session")
def shared_labs(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(template, lambda: tmp_path_factory.mktemp("lab") / "lab")
    yield shared
    shared.drop()


@pytest.fixture
def shared(shared_labs: Shared, request: pytest.FixtureRequest) -> Iterator[Shared]:
    """The lab that tests share."""
    yield shared_labs
    report = request.node.stash.get(FAILED, None)
    if report is not False:
        shared_labs.drop(tell=True)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[FAILED] = not report.passed
    return report  # type: ignore[return-value]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[Outcome], None]:
    """Take note of an outcome, for the table at the end."""
    outcomes = request.config.stash.setdefault(OUTCOMES, [])
    return outcomes.append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes = config.stash.get(OUTCOMES, [])
    if not outcomes:
        return
    text = table(outcomes)
    terminalreporter.section("faults")
    terminalreporter.write_line(text)
    if path := os.environ.get("JMP_FAULT_REPORT"):
        Path(path).write_text(f"{text}\n")
