"""The worker in a client's shell, as the test orders it about; see `drivers/worker.py`."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from .processes import PATIENCE


class Worker:
    """Waits for the worker to come, and tells it what to do."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"worker-{time.monotonic_ns()}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._link: socket.socket | None = None
        self._answers: Any = None

    def came(self, patience: float = PATIENCE) -> bool:
        """Wait for the worker; tell whether it has come."""
        if self._link is None:
            self._listener.settimeout(patience)
            try:
                self._link, _ = self._listener.accept()
            except TimeoutError:
                return False
            self._answers = self._link.makefile("r")
        return True

    def send(self, command: str) -> bool:
        """Give an order; tell whether it could be given."""
        if self._link is None:
            return False
        try:
            self._link.sendall(command.encode() + b"\n")
        except OSError:
            return False
        return True

    def answer(self, patience: float = PATIENCE) -> dict[str, str]:
        """Return the next answer; an error when there is none.

        Raises:
            AssertionError: the worker hangs.
        """
        if self._link is None:
            return {"error": "the worker did not come"}
        self._link.settimeout(patience)
        try:
            line = self._answers.readline()
        except TimeoutError:
            raise AssertionError(f"the worker gave no answer within {patience:g} s") from None
        except OSError:
            line = ""
        return json.loads(line) if line else {"error": "the worker has ended"}

    def do(self, command: str, patience: float = PATIENCE) -> dict[str, str]:
        """Give an order and return the answer."""
        return self.answer(patience) if self.send(command) else {"error": "the worker has gone"}

    def must(self, command: str) -> str:
        """Give an order that has to succeed."""
        answer = self.do(command)
        assert "error" not in answer, answer
        return answer.get("done", "")

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._listener.close()
