"""A lab that tests use one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .lab import BOARDS, FaultLab, Template
from .life import Bystander


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

    def told(self) -> str:
        """Return what the programs of the lab said."""
        return self._lab.told() if self._lab is not None else "there is no lab"

    def drop(self) -> None:
        """Have another lab started next time."""
        if self._lab is not None:
            self._lab.close()
        self._lab = self._bystander = None
