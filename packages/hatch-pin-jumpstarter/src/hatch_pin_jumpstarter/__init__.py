"""Hatchling build hook that pins sibling Jumpstarter packages in source distributions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import tomli
import tomli_w
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.plugin import hookimpl
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pinned(dependency: str, version: str) -> str:
    """Return `dependency` with `==version` added when it names a Jumpstarter package.

    Extras, markers and specifiers that the requirement has are kept.
    """
    requirement = Requirement(dependency)
    if not canonicalize_name(requirement.name).startswith("jumpstarter"):
        return dependency
    requirement.specifier &= f"=={version}"
    return str(requirement)


class PinJumpstarter(BuildHookInterface):
    """Write a pyproject.toml with pinned siblings into the source distribution.

    A wheel that is built from that source distribution, as `uv build` and
    `python -m build` do, inherits the pins; a wheel built from the tree does not.
    """

    PLUGIN_NAME = "pin_jumpstarter"

    _replacement: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the pinned project file in place of the plain one; acts on sdists only."""
        if self.target_name != "sdist":
            return
        document = tomli.loads((Path(self.root) / "pyproject.toml").read_text(encoding="utf-8"))
        project = document["project"]
        project["dependencies"] = [pinned(item, self.metadata.version) for item in project.get("dependencies", [])]
        handle, path = tempfile.mkstemp(suffix=".toml")
        with os.fdopen(handle, "wb") as file:
            tomli_w.dump(document, file)
        self._replacement = path
        build_data["force_include"][path] = "pyproject.toml"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary project file."""
        if self.target_name == "sdist" and self._replacement is not None:
            Path(self._replacement).unlink(missing_ok=True)
            self._replacement = None


@hookimpl
def hatch_register_build_hook() -> type[PinJumpstarter]:
    """Make the hook known to Hatchling."""
    return PinJumpstarter
