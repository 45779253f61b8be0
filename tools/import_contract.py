"""The import contract of the layers, applied to the code that ships: tests may import from anywhere."""

from __future__ import annotations

import grimp
from importlinter.contracts.layers import LayersContract
from importlinter.domain.contract import ContractCheck


class ShippedLayersContract(LayersContract):
    """import-linter's layers contract over a graph without test modules and conftest files."""

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Drop the test modules, which wheels leave out as well, then check the layers."""
        for module in list(graph.modules):
            name = module.rpartition(".")[2]
            if name.endswith("_test") or name == "conftest":
                graph.remove_module(module)
        return super().check(graph, verbose)
