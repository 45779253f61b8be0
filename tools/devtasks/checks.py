"""Checks of the text of the code: style, imports, types."""

from __future__ import annotations

import tomllib
from pathlib import Path

from .base import ROOT, DevError, run
from .workspace import packages, setup, tool


def task_lint(arguments: list[str]) -> None:
    """check formatting, style and the import contract"""
    setup()
    paths = arguments or ["."]
    failures: list[DevError] = []
    commands: list[list[str | Path]] = [
        [tool("ruff"), "format", "--check", *paths],
        [tool("ruff"), "check", *paths],
        [tool("lint-imports"), "--no-cache", "--no-logo"],
    ]
    for command in commands:
        try:
            run(command)
        except DevError as error:
            failures.append(error)
    unguarded = _modules_without_contract()
    if unguarded:
        failures.append(DevError(f"[tool.importlinter] in pyproject.toml doesn't name {', '.join(unguarded)}"))
    if failures:
        raise DevError("; ".join(map(str, failures)))


def task_types(arguments: list[str]) -> None:
    """check the type hints"""
    setup()
    run([tool("mypy"), *arguments])


def _modules_without_contract() -> list[str]:
    """The published modules that the import contract has forgotten."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    modules = {
        module.name
        for package in packages()
        if package.parent == ROOT / "packages"
        for module in package.glob("jumpstarter*/")
        if (module / "__init__.py").exists()
    }
    return sorted(modules - set(contract))
