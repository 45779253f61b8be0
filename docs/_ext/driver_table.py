"""Makes the tables of all drivers from their classes, their clients and the READMEs of their packages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

SECTION = re.compile(r"^## Tested against\s*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
"""The part of a README that says against what the package is tested."""

NOTHING = "none"


def tables() -> str:
    """Return a section for each driver package: what it is tested against, and a table of its drivers."""
    from jumpstarter_cli_driver.description import DriverDescription
    from jumpstarter_cli_driver.installed import installed_drivers

    packages: dict[str, list[dict[str, Any]]] = {}
    for driver in installed_drivers():
        if (ROOT / "packages" / driver.package / "README.md").exists():
            packages.setdefault(driver.package, []).append(DriverDescription(driver, driver.load()).values)
    return "\n".join(_section(package, packages[package]) for package in sorted(packages))


def tested_against(readme: str) -> str:
    """Return what a README says of the real parts that its package is tested against."""
    found = SECTION.search(readme)
    return found[1].strip() if found else ""


def _section(package: str, drivers: list[dict[str, Any]]) -> str:
    readme = (ROOT / "packages" / package / "README.md").read_text()
    rows = "\n".join(_row(driver) for driver in drivers)
    return (
        f"## [{package.removeprefix('jumpstarter-driver-')}]({package}.md)\n\n"
        f"| Driver | Config keys | Methods | Commands |\n|---|---|---|---|\n{rows}\n\n"
        f"**Tested against:** {tested_against(readme)}\n"
    )


def _row(driver: dict[str, Any]) -> str:
    keys = (f"**`{item['name']}`**" if item["required"] else f"`{item['name']}`" for item in driver["settings"])
    methods = (f"`{item['name']}`" for item in driver["methods"])
    commands = (f"`{item['name']}`" for item in driver["commands"])
    first = f"**{driver['name']}**<br>`{driver['type']}`"
    return f"| {first} | {_cell(keys)} | {_cell(methods)} | {_cell(commands)} |"


def _cell(words: Iterable[str]) -> str:
    return ", ".join(words) or NOTHING
