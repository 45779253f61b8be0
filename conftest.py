"""What every test of the repository gets: a bare terminal, configs of its own, and names for doctests."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["TERM"] = "dumb"  # before rich looks at it, so that captured output has no colours and no spinners


pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio alone, the only loop that grpc.aio knows."""
    return "asyncio"


@contextlib.contextmanager
def run(config: str) -> Iterator[Any]:
    """Serve the driver instance that the YAML text describes and yield its client."""
    from jumpstarter.common.utils import serve
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

    with serve(ExporterConfigV1Alpha1DriverInstance.from_str(config).instantiate()) as client:
        yield client


@pytest.fixture(autouse=True)
def jumpstarter_namespace(request: pytest.FixtureRequest) -> None:
    """Give doctests the names `serve` and `run`; other tests don't pay for the import."""
    if isinstance(request.node, pytest.DoctestItem):
        from jumpstarter.common.utils import serve

        namespace = request.getfixturevalue("doctest_namespace")
        namespace["serve"] = serve
        namespace["run"] = run


@pytest.fixture(autouse=True)
def tmp_config_path(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every place that configs are read from or written to into a fresh directory, which is returned."""
    base = tmp_path_factory.mktemp("config")
    for name in list(os.environ):
        if name.startswith(("JMP_", "JUMPSTARTER_")) and name != "JMP_REQUIRE_REAL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base / "client-config"))
    if (exporter := _exporter_config()) is not None:
        monkeypatch.setattr(exporter, "BASE_PATH", base / "exporters", raising=False)
        monkeypatch.setattr(exporter, "SYSTEM_CONFIG_PATH", base / "system-exporters", raising=False)
    return base


def _exporter_config() -> Any:
    """The exporter config class, or None where the core isn't installed."""
    try:
        from jumpstarter.config.exporter import ExporterConfigV1Alpha1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "jumpstarter":
            raise
        return None
    return ExporterConfigV1Alpha1


@pytest.fixture(autouse=True)
def console_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the terminal so wide that no table folds."""
    monkeypatch.setenv("COLUMNS", "1024")
    monkeypatch.setenv("LINES", "1024")


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Take back what commands change for a whole process, which usually ends with them: logging and TLS trust."""
    root = logging.getLogger()
    handlers, level, context = list(root.handlers), root.level, ssl.SSLContext
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    if ssl.SSLContext is not context:
        truststore = sys.modules["truststore"]
        truststore.extract_from_ssl()
