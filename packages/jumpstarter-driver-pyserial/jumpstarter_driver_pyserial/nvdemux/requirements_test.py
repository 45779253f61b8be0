"""What `jmp driver doctor` says of these drivers' needs."""

from __future__ import annotations

import pytest
from jumpstarter_cli_driver.requirements import examine

from .driver import NVDemuxSerial


@pytest.mark.parametrize(("installed", "state"), [(True, "ok"), (False, "optional")])
def test_the_demultiplexer_is_looked_for_but_may_be_elsewhere(tmp_path, monkeypatch, installed, state):
    monkeypatch.setenv("PATH", str(tmp_path))
    if installed:
        (tmp_path / "nv_tcu_demuxer").touch(mode=0o755)
    (finding,) = examine("NVDemuxSerial", lambda: NVDemuxSerial)
    assert (finding.requirement, finding.state) == ("nv_tcu_demuxer", state)
    assert ("demuxer_path" in finding.hint) is not installed
