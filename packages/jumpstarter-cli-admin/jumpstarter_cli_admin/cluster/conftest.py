"""A namespace of a cluster for each test, and the commands as its administrator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter_kubernetes.exceptions import ClusterError
from jumpstarter_kubernetes.resources import Resource
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.published import published_controller

from ..conftest import Run, invoke
from . import backend

_NUMBERS = itertools.count(1)


class Namespace:
    """A namespace of the cluster, for looking at and for putting objects there."""

    def __init__(self, kube: Kube, name: str) -> None:
        self.kube, self.name = kube, name

    def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of `Cluster`."""

        async def call() -> Any:
            async with self.kube.cluster(self.name) as cluster:
                return await getattr(cluster, method)(*args, **options)

        return anyio.run(call)

    def get(self, resource: Resource, name: str) -> Any:
        """Return an object; None when there is none."""
        try:
            return self.ask("get", resource, name)
        except ClusterError:
            return None

    def names(self, resource: Resource) -> list[str]:
        """Return the names of all objects of a kind."""
        return [item["metadata"]["name"] for item in self.ask("list", resource).items]


@pytest.fixture
def namespace(kube: Kube) -> Namespace:
    """A namespace of the test's own, with nobody who looks after what is there."""
    return Namespace(kube, kube.namespace(f"admin-{next(_NUMBERS)}"))


@pytest.fixture
def kubeconfig(kube: Kube, namespace: Namespace, tmp_path: Path) -> Path:
    """A kubeconfig whose context `test` is about the namespace."""
    return kube.kubeconfig(tmp_path / "kubeconfig", namespace=namespace.name)


@pytest.fixture
def run(kubeconfig: Path, tmp_config_path: Path) -> Run:
    """Run `jmp admin` with arguments, for the namespace."""

    def call(*args: str, **options: Any) -> Any:
        end = args.index("--") if "--" in args else len(args)
        return invoke(*args[:end], "--kubeconfig", str(kubeconfig), *args[end:], **options)

    return call


@pytest.fixture
def published(kube: Kube, namespace: Namespace) -> Iterator[None]:
    """Have a controller of the published kind look after the namespace."""
    with published_controller(kube, namespace.name):
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a controller that isn't there for a moment only."""
    monkeypatch.setattr(backend, "CREDENTIAL_SECONDS", 0.3)
    monkeypatch.setattr(backend, "END_SECONDS", 0.3)
    monkeypatch.setattr(backend, "LOOK", 0.05)
