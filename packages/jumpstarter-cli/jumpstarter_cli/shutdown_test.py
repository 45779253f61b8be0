"""The end of a shell on this machine: the devices are left as the exporter config says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OUTLET = '''
from dataclasses import dataclass

from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.driver import PowerInterface


@dataclass(kw_only=True)
class Outlet(PowerInterface, Driver):
    """Keeps its state in a file."""

    path: str
    stuck: bool = False

    def _set(self, state):
        with open(self.path, "w") as file:
            file.write(state)

    @export
    def on(self):
        self._set("on")

    @export
    def off(self):
        if self.stuck:
            raise OSError("the contact is welded")
        self._set("off")

    @export
    def read(self):
        raise NotImplementedError

    def reset(self):
        self._set("reset")
'''


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., list[str]]:
    """Write an exporter config with an outlet; returns the arguments of a shell with it."""
    (tmp_path / "outlet_driver.py").write_text(OUTLET)

    def arguments(ending: str, settings: str = "") -> list[str]:
        config = tmp_path / "bench.yaml"
        config.write_text(
            f"metadata: {{namespace: a, name: b}}\n{ending}\nexport:\n  power:\n    type: outlet_driver.Outlet\n"
            f"    config: {{path: {tmp_path / 'outlet'}{settings}}}\n"
        )
        return ["shell", "--exporter-config", str(config), "--"]

    return arguments


@pytest.mark.parametrize(
    ("ending", "state"), [("", "on"), ("shutdown: leave", "on"), ("shutdown: off", "off"), ("shutdown: reset", "reset")]
)
def test_devices_are_left_as_the_config_says(shell: Any, run_jmp: Any, tmp_path: Path, ending: str, state: str) -> None:
    result = run_jmp(*shell(ending), "j", "power", "on", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outlet").read_text() == state


def test_a_shell_that_is_terminated_leaves_them_so_too(shell: Any, start_jmp: Any, tmp_path: Path) -> None:
    command = [*shell("shutdown: off"), "sh", "-c", "j power on && echo ready && exec sleep 300"]
    process = start_jmp(*command, env={"PYTHONPATH": str(tmp_path)})
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (tmp_path / "outlet").read_text() == "off"


def test_a_device_that_can_not_be_switched_off_is_told(shell: Any, run_jmp: Any, tmp_path: Path) -> None:
    result = run_jmp(*shell("shutdown: off", ", stuck: true"), "j", "power", "on", PYTHONPATH=str(tmp_path))
    assert "Outlet can't be switched off at the end of the session: " in result.stderr
    assert "the contact is welded" in result.stderr
    assert (tmp_path / "outlet").read_text() == "on"


def test_another_state_is_a_mistake_in_the_config(shell: Any, run_jmp: Any, tmp_path: Path) -> None:
    result = run_jmp(*shell("shutdown: explode"), "true", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert "bench.yaml:2: shutdown: must be 'leave', 'off' or 'reset', not 'explode'" in result.stderr
