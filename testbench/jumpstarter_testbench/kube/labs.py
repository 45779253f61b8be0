"""Stores of labs in clusters of their own, for running the tests of labs with `TESTBENCH_LAB_STORE`."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from .fixtures import Kube

if TYPE_CHECKING:
    from jumpstarter_controller.store.kubernetes import KubernetesStore

_MOST = 8
"""Clusters at a time; older ones are of tests that are over."""

_CLUSTERS: OrderedDict[Path, Kube] = OrderedDict()


def store(folder: Path) -> KubernetesStore:
    """Return a store in the cluster of a folder, which is there already when a lab ran in that folder before."""
    from jumpstarter_controller.store.kubernetes import KubernetesStore

    if folder not in _CLUSTERS:
        _CLUSTERS[folder] = Kube(folder / "kube").open()
        for name in ("lab", "other", "elsewhere"):
            _CLUSTERS[folder].namespace(name)
        while len(_CLUSTERS) > _MOST:
            _CLUSTERS.popitem(last=False)[1].close()
    return KubernetesStore(_CLUSTERS[folder].cluster("default"))
