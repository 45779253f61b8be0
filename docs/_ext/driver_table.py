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
    modules = sorted({driver["type"].rpartition(".")[0] for driver in drivers})
    rows = "\n".join(map(_row, drivers))
    return (
        f"## [{short_name(package)}]({package}.md)\n\n"
        f"Types are in {_cell(f'`{module}`' for module in modules)}.\n\n"
        f"| Driver | Config keys | Methods | Commands |\n|---|---|---|---|\n{rows}\n\n"
        f"**Tested against:** {tested_against(readme)}\n"
    )


def short_name(package: str) -> str:
    """Return what a driver package is called among the others."""
    return package.removeprefix("jumpstarter-driver-")


def _row(driver: dict[str, Any]) -> str:
    keys = (f"**`{item['name']}`**" if item["required"] else f"`{item['name']}`" for item in driver["settings"])
    # What begins with an underscore is there for older peers.
    methods = (f"`{item['name']}`" for item in driver["methods"] if not item["name"].startswith("_"))
    commands = (f"`{item['name']}`" for item in driver["commands"])
    return f"| **{driver['name']}** | {_cell(keys)} | {_cell(methods)} | {_cell(commands)} |"


def _cell(words: Iterable[str]) -> str:
    return ", ".join(words) or NOTHING
