"""Certificates that expire and are replaced while streams are open."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.authority import BACKDATED, Authority
from jumpstarter_controller.store.memory import MemoryStore

from .lab import RECOVERY, FaultLab
from .life import Bystander, Life
from .report import Outcome

SHORT = timedelta(seconds=12)
"""How long a certificate lasts that a test sees the end of: longer than a lab takes to start."""


class Own:
    """An authority whose certificates an administrator puts where the controller reads them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificate, self.key, self.ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self._authority: Authority

    async def open(self) -> None:
        self._authority = await Authority.load(MemoryStore(), SystemClock())
        self.ca.write_bytes(self._authority.certificate)

    def put(self, life: timedelta) -> None:
        """Replace the certificate by one that lasts so long from now."""
        assert life > -BACKDATED
        pair = self._authority.issue(["127.0.0.1"], life)
        for path, content in ((self.key, pair.key), (self.certificate, pair.chain)):
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_bytes(content)
            fresh.replace(path)

    @property
    def settings(self) -> dict[str, object]:
        return {"tls": {"certificate": str(self.certificate), "key": str(self.key), "ca": str(self.ca)}}

    @property
    def trust(self) -> str:
        return base64.b64encode(self.ca.read_bytes()).decode()


@pytest.fixture
def own(tmp_path: Path) -> Own:
    made = Own(tmp_path / "tls")
    anyio.run(made.open)
    return made


@pytest.mark.timeout(180)
def test_a_certificate_that_is_replaced_before_it_expires_is_noticed_by_nobody(
    own: Own, fresh_lab: Callable[..., FaultLab], note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome("certificate replaced, then expired", "stream")
    note(outcome)
    own.put(SHORT)
    ends = time.monotonic() + SHORT.total_seconds()
    lab = fresh_lab(settings=own.settings, trust=own.trust, with_router=False)
    bystander = Bystander(lab)
    life = Life(lab)
    life.reach("stream")
    own.put(timedelta(days=1))
    time.sleep(max(ends - time.monotonic() + 1, 0))
    bystander.check()
    assert life.worker.must("use") == life.lease
    assert life.worker.must("echo") == "echo"
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    bystander.check()
    life.check()
    outcome.passed = True


@pytest.mark.timeout(180)
def test_an_expired_certificate_is_told_and_all_is_well_as_soon_as_it_is_replaced(
    own: Own, fresh_lab: Callable[..., FaultLab], note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome("certificate expired", "stream")
    note(outcome)
    own.put(SHORT)
    ends = time.monotonic() + SHORT.total_seconds()
    lab = fresh_lab(settings=own.settings, trust=own.trust, with_router=False)
    life = Life(lab)
    life.reach("stream")
    time.sleep(max(ends - time.monotonic() + 1, 0))
    assert life.worker.must("echo") == "echo"
    refused = lab.jmp("prover", "create", "lease", "-n", "board-2", "--duration", "1m")
    assert refused.end() == 1
    assert "certificate" in refused.text.lower(), refused.text
    own.put(timedelta(days=1))
    healed = time.monotonic()
    life.let_go()
    assert life.finish() == 0, life.shell.text
    outcome.granted = life.hand_on()
    outcome.recovered = time.monotonic() - healed
    assert outcome.recovered < RECOVERY
    life.check()
    outcome.passed = True
