"""The list of real components: what each needs on the machine, and how to install what is missing.

Standard library only, because `./dev` reads it before anything is installed.
"""

from __future__ import annotations

import functools
import glob
import os
import shlex
import shutil
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("components.toml")

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""Where programs are looked for: daemons lie in sbin, which an ordinary user's PATH leaves out."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One program or set of files that tests use for real."""

    name: str
    tier: str
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Paths or patterns of paths."""
    services: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The programs and files that aren't there."""
        absent = [name for name in self.programs if find_program(name) is None]
        return absent + [name for name in self.files if not glob.glob(name)]


@functools.cache
def components() -> dict[str, Component]:
    """Every component of the list by its name."""
    found: dict[str, Component] = {}
    for tier, members in tomllib.loads(LIST.read_text()).items():
        for name, settings in members.items():
            if name in found:
                raise ValueError(f"{LIST.name}: {name} is listed twice")
            values = {key: tuple(value) for key, value in settings.items()}
            found[name] = Component(name=name, tier=tier, **values)
    return found


def find_program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name, path=SEARCH_PATH)


def missing_packages(tiers: Iterable[str]) -> list[str]:
    """The Debian packages to install for these tiers, in the list's order."""
    wanted = set(tiers)
    missing: dict[str, None] = {}
    for component in components().values():
        if component.tier in wanted and component.missing():
            missing.update(dict.fromkeys(component.packages))
    return list(missing)


def install_line(packages: Iterable[str]) -> str:
    """The command that a user can copy to install the packages."""
    return f"sudo apt-get install --no-install-recommends {shlex.join(packages)}"
