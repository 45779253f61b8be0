"""What `jmp driver doctor` says of these drivers' needs."""

from __future__ import annotations

import pytest
from jumpstarter_cli_driver.requirements import examine

from .driver import Shell


@pytest.mark.parametrize(("installed", "state"), [(True, "ok"), (False, "missing")])
def test_the_usual_shell_is_needed(tmp_path, monkeypatch, installed, state):
    monkeypatch.setenv("PATH", str(tmp_path))
    if installed:
        (tmp_path / "bash").touch(mode=0o755)
    (finding,) = examine("Shell", lambda: Shell)
    assert (finding.requirement, finding.state) == ("bash", state)
    assert ("`shell`" in finding.hint) is not installed
