"""What a test needs from the machine: absent, it is a skip on a developer's machine and a failure in CI."""

from __future__ import annotations

import importlib.util
import os
from typing import NoReturn

import pytest

from jumpstarter_testbench.components import components, find_program, install_line

REQUIRE_REAL = "JMP_REQUIRE_REAL"
"""The environment variable that turns every skip for want of a component into a failure when it is `1`."""


def unavailable(reason: str) -> NoReturn:
    """End the test that asked for something that this machine doesn't have: a skip, or a failure in CI."""
    if os.environ.get(REQUIRE_REAL) == "1":
        pytest.fail(f"{reason} ({REQUIRE_REAL}=1 makes this a failure)", pytrace=False)
    pytest.skip(reason)


def need(*names: str) -> None:
    """End the test unless every named component of components.toml is installed.

    Raises:
        KeyError: the list has no such component.
    """
    known = components()
    missing = {name: absent for name in names if (absent := known[name].missing())}
    if missing:
        packages = dict.fromkeys(package for name in missing for package in known[name].packages)
        absent_names = ", ".join(entry for absent in missing.values() for entry in absent)
        unavailable(f"not installed: {absent_names}. Install: {install_line(packages)}")


def need_module(module: str, distribution: str) -> None:
    """End the test unless a Python module of the workspace's environment can be imported."""
    if importlib.util.find_spec(module) is None:
        unavailable(f"the Python module {module} is not installed. Install: ./dev setup, or pip install {distribution}")


def program(name: str) -> str:
    """The path of a program that `need` has vouched for; a missing one ends the test."""
    path = find_program(name)
    if path is None:
        owner = next((component for component in components().values() if name in component.programs), None)
        hint = f". Install: {install_line(owner.packages)}" if owner else ""
        unavailable(f"not installed: {name}{hint}")
    return path
