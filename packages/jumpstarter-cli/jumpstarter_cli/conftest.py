"""Configs, and the programs as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

JMP = [sys.executable, "-m", "jumpstarter_cli"]
J = [sys.executable, "-m", "jumpstarter_cli.j"]

TIMEOUT = 60.0

EXPORTER = """\
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata: {namespace: default, name: demo}
export:
  power: {type: jumpstarter_driver_power.driver.MockPower}
"""


@pytest.fixture
def exporter_config(tmp_path: Path) -> Path:
    """The file of an exporter with a mock power supply."""
    path = tmp_path / "exporter.yaml"
    path.write_text(EXPORTER)
    return path


@pytest.fixture
def process_env(tmp_config_path: Path) -> dict[str, str]:
    """An environment in which programs find no config but those of the test."""
    home = str(tmp_config_path / "client-config" / "jumpstarter")
    return os.environ | {"JMP_CLIENT_CONFIG_HOME": home, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def run_jmp(process_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `jmp` with arguments to its end."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*JMP, *args],
            env=process_env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    return run


@pytest.fixture
def start_jmp(process_env: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `jmp` with arguments; what still runs at the end of the test is killed, with all it has started."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*JMP, *args],
            env=process_env | options.pop("env", {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT)


# The controller, router and certificate of the core's own tests, which stand beside the core and in no package.
_core = spec_from_file_location("jumpstarter_core_conftest", Path(__file__).parents[2] / "jumpstarter" / "conftest.py")
assert _core is not None
assert _core.loader is not None
_fixtures = module_from_spec(_core)
sys.modules[_core.name] = _fixtures
_core.loader.exec_module(_fixtures)

certificate = _fixtures.certificate
threaded_lab = _fixtures.threaded_lab
