"""A namespace of the stand-in API server, and a published controller that works there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.published import published_controller

_NUMBERS = itertools.count(1)

Open = Callable[[type[Any]], Any]


@pytest.fixture
def namespace(kube: Kube) -> str:
    """A namespace of the test's own."""
    return kube.namespace(f"records-{next(_NUMBERS)}")


@pytest.fixture
def controller(kube: Kube, namespace: str) -> Iterator[None]:
    """What gives clients and exporters of the namespace their credentials."""
    with published_controller(kube, namespace):
        yield


@pytest.fixture
def api(kube: Kube, namespace: str, tmp_path: Path) -> Open:
    """Make an API class for the namespace, to be opened."""
    config = kube.kubeconfig(tmp_path / "kubeconfig", namespace=namespace)
    return lambda kind: kind(namespace, str(config))
