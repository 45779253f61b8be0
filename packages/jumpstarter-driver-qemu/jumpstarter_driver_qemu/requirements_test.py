"""What `jmp driver doctor` says of these drivers' needs."""

from __future__ import annotations

import pytest
from jumpstarter_cli_driver.requirements import examine, requirements_of

from .driver import Qemu


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all that there is on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def states() -> dict[str, tuple[str, str]]:
    return {finding.requirement: (finding.state, finding.hint) for finding in examine("Qemu", lambda: Qemu)}


def test_missing_programs_are_told_with_the_packages_that_have_them(programs):
    found = states()
    state, hint = found["qemu-system-x86_64 or qemu-system-aarch64"]
    assert state == "missing"
    assert "qemu-system-x86" in hint
    assert "qemu-system-arm" in hint
    assert found["qemu-img"] == ("missing", "apt-get install qemu-utils")
    assert found["fls"][0] == "optional"


def test_the_emulator_of_one_architecture_is_enough(programs):
    for name in "qemu-system-aarch64", "qemu-img":
        (programs / name).touch(mode=0o755)
    assert "missing" not in {state for state, _ in states().values()}


def test_acceleration_is_no_condition():
    assert {"/dev/kvm?", "/dev/vhost-vsock?"} <= requirements_of(Qemu).keys()
