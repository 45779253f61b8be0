"""A lab of real processes for the tests, made anew when a test has left it broken; a table of what happened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .beside import MARK, Beside, Job
from .lab import DRIVERS, FaultLab, Template
from .report import Outcome, table
from .shared import Shared

OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", f"{MARK}(job): mostly waits, and runs beside other tests, in a lab of its own")


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
        print(shared_labs.told())
        shared_labs.drop()


@pytest.fixture(scope="session")
def beside(
    template: Template, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Beside]:
    """The tests that run beside the others, all of which begin with the first that is run."""
    outcomes = request.config.stash.setdefault(OUTCOMES, [])
    begun = Beside(template, lambda: tmp_path_factory.mktemp("beside") / "lab", outcomes.append, request.session.items)
    yield begun
    begun.close()


@pytest.fixture
def live(
    request: pytest.FixtureRequest, shared: Shared, beside: Beside, note: Callable[[Outcome], None]
) -> Callable[[Job], None]:
    """Do something in the lab that tests share, or wait for what was begun beside."""

    def do(job: Job) -> None:
        begun = beside.running.get(request.node.nodeid)
        if begun is None:
            job(shared, note)
        else:
            begun.result()

    return do


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
