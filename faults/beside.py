"""Tests that mostly wait, which run beside the others, in labs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import local

import pytest

from .lab import Template
from .report import Outcome
from .shared import Shared

Job = Callable[[Shared, Callable[[Outcome], None]], None]
"""What is done in a lab, and what takes note of its outcome."""

MARK = "beside"

WORKERS = 2
"""Labs at a time, besides the one of all other tests; a machine with two cores is busy with that."""


class Beside:
    """Runs the tests that bear the mark `beside`, whose `job` is what to do in a lab.

    Args:
        template: accounts of the labs.
        folder: returns an empty folder.
        note: takes note of outcomes.
        items: the tests that were selected.
    """

    def __init__(
        self,
        template: Template,
        folder: Callable[[], Path],
        note: Callable[[Outcome], None],
        items: Iterable[pytest.Item],
    ) -> None:
        self._template, self._folder, self._note = template, folder, note
        self._own = local()
        self._labs: list[Shared] = []
        self._threads = ThreadPoolExecutor(WORKERS)
        self.running: dict[str, Future[None]] = {}
        """What was begun, by the name of the test."""
        for item in items:
            if (mark := item.get_closest_marker(MARK)) is not None:
                self.running[item.nodeid] = self._threads.submit(self._run, mark.kwargs["job"])

    def _run(self, job: Job) -> None:
        if not hasattr(self._own, "shared"):
            self._own.shared = Shared(self._template, self._folder)
            self._labs.append(self._own.shared)
        shared: Shared = self._own.shared
        try:
            job(shared, self._note)
        except BaseException as error:
            error.add_note(shared.told())
            shared.drop()
            raise

    def close(self) -> None:
        """Begin nothing more, wait for what runs, and end the labs."""
        self._threads.shutdown(cancel_futures=True)
        for shared in self._labs:
            shared.drop()
