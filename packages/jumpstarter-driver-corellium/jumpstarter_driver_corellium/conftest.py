"""An emulated service, and the environment that leads to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jumpstarter_testbench.emulated.certificates import Certificate, loopback_certificate
from jumpstarter_testbench.emulated.corellium import CorelliumService


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return loopback_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[CorelliumService]:
    with CorelliumService() as running:
        monkeypatch.setenv("CORELLIUM_API_HOST", running.url)
        monkeypatch.setenv("CORELLIUM_API_TOKEN", running.token)
        monkeypatch.setenv("CORELLIUM_API_INTERVAL", "0.01")
        yield running
