"""What drivers need of the system they run on, and whether it is there.

A driver class says it by a class attribute, a plain mapping that costs no import:

    class Qemu(Driver):
        system_requirements: ClassVar[dict[str, str]] = {
            "qemu-system-x86_64|qemu-system-aarch64": "apt-get install qemu-system-x86 qemu-system-arm",
            "/dev/kvm?": "add the user to the group kvm; without it, guests are slow",
        }

The key says what is needed, the value in one line how to get it:

    tool            a program on the PATH
    /dev/kvm        a file or device that can be opened for reading
    lib:usb-1.0     a shared library
    python:usb      a Python module
    a|b             one of several
    ...?            only useful, not needed
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

ATTRIBUTE = "system_requirements"

OK, MISSING, OPTIONAL, BROKEN = "ok", "missing", "optional", "broken"


@dataclass(frozen=True)
class Finding:
    """One requirement of one driver, and its state."""

    driver: str
    requirement: str
    state: str
    """`ok`, `missing`, `optional` (missing, but not needed), or `broken` (the driver can't be loaded)."""
    hint: str = ""
    """What to do about it."""


def requirements_of(driver_class: Any) -> dict[str, str]:
    """Return what a driver class and its bases say that they need; a subclass may override a hint.

    Raises:
        TypeError: the attribute is no mapping of texts.
    """
    found: dict[str, str] = {}
    for base in reversed(getattr(driver_class, "__mro__", ())):
        declared = base.__dict__.get(ATTRIBUTE, {})
        if not isinstance(declared, Mapping) or not all(
            isinstance(part, str) for pair in declared.items() for part in pair
        ):
            raise TypeError(f"{base.__qualname__}.{ATTRIBUTE} must be a mapping of text to text")
        found |= declared
    return found


def is_met(requirement: str) -> bool:
    """Whether the system has what a requirement, or one of its alternatives, names."""
    return any(_is_there(what.strip()) for what in requirement.removesuffix("?").split("|"))


def _is_there(what: str) -> bool:
    if what.startswith("/"):
        return os.access(what, os.R_OK)
    kind, colon, name = what.partition(":")
    if colon and kind == "lib":
        from ctypes.util import find_library

        return find_library(name) is not None
    if colon and kind == "python":
        try:
            return find_spec(name) is not None
        except (ImportError, ValueError):
            # The parent of a dotted name is missing.
            return False
    return shutil.which(what) is not None


def examine(name: str, load: Any) -> list[Finding]:
    """Load a driver class and check what it needs; one that can't be loaded is a finding of its own."""
    try:
        requirements = requirements_of(load())
    except ModuleNotFoundError as error:
        return [Finding(name, f"python:{error.name}", BROKEN, f"reinstall the driver's package ({error})")]
    except Exception as error:  # noqa: BLE001 - a driver's module is other people's code and may raise anything
        return [Finding(name, "", BROKEN, f"can't be loaded: {type(error).__name__}: {error}")]
    if not requirements:
        return [Finding(name, "", OK)]
    return [_examine_one(name, requirement, hint) for requirement, hint in requirements.items()]


def _examine_one(name: str, requirement: str, hint: str) -> Finding:
    shown = requirement.removesuffix("?").replace("|", " or ")
    if is_met(requirement):
        return Finding(name, shown, OK)
    return Finding(name, shown, OPTIONAL if requirement.endswith("?") else MISSING, hint)


class Findings:
    """Findings, as tables and machine formats."""

    def __init__(self, items: list[Finding]) -> None:
        self.items = items

    @property
    def failed(self) -> bool:
        """Whether something is missing that is needed."""
        return any(item.state in (MISSING, BROKEN) for item in self.items)

    def rich_add_columns(self, table: Any) -> None:
        """Add the columns."""
        for title in ("DRIVER", "NEEDS", "STATE", "HINT"):
            table.add_column(title)

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per finding."""
        for item in self.items:
            table.add_row(item.driver, item.requirement or "-", item.state, item.hint)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the drivers that lack something they need."""
        names.extend(dict.fromkeys(item.driver for item in self.items if item.state in (MISSING, BROKEN)))

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return the findings as plain values."""
        return {"ok": not self.failed, "items": [vars(item) for item in self.items]}
