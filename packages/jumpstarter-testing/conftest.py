"""The controller and router that the core's tests use as well, kept for all tests of a module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from jumpstarter_testbench.process import running

_spec = importlib.util.spec_from_file_location(
    "jumpstarter_core_conftest", Path(__file__).parent.parent / "jumpstarter" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_core = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _core  # where dataclasses look for the names of annotations
_spec.loader.exec_module(_core)

certificate = _core.certificate


EXPORTER = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata: {{namespace: lab, name: bench}}
endpoint: {lab.endpoint}
token: exporter-token
tls: {{ca: {lab.certificate.ca}}}
export:
  power: {{type: jumpstarter_driver_power.driver.MockPower}}
"""


@pytest.fixture(scope="module")
def leasable_board(certificate: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A controller and a real exporter behind it, labelled board=rpi4, whose device is a power supply.

    It lasts longer than any pytester, which forgets the modules that are imported while it is there.
    """
    folder = tmp_path_factory.mktemp("exporter")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_core.running_lab(certificate)) as lab,
    ):
        portal.call(lambda: lab.controller.add("bench", board="rpi4"))
        config = folder / "exporter.yaml"
        config.write_text(EXPORTER.format(lab=lab))
        with running(
            [sys.executable, "-m", "jumpstarter_cli", "run", "--exporter-config", config],
            log=folder / "log",
            ready=lambda: "bench" in lab.controller.registered,
        ):
            yield lab
