"""The installed drivers, as their distributions announce them by entry points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "jumpstarter.drivers"
"""Entry point group of drivers: `Name = "package.driver:Class"`."""

API_VERSION = "jumpstarter.dev/v1alpha1"


@dataclass(frozen=True)
class InstalledDriver:
    """A driver class that exporter configs can name."""

    name: str
    type: str
    """Dotted path, as in the key `type` of an exporter config."""
    package: str
    version: str

    def load(self) -> Any:
        """Import the class; whatever its module raises goes to the caller."""
        module, _, name = self.type.rpartition(".")
        return EntryPoint(self.name, f"{module}:{name}", GROUP).load()


def installed_drivers() -> list[InstalledDriver]:
    """Return all installed drivers, sorted by name."""
    found = set()
    for point in entry_points(group=GROUP):
        distribution = point.dist
        found.add(
            InstalledDriver(
                name=point.name,
                type=point.value.partition("[")[0].strip().replace(":", "."),
                package=distribution.name if distribution is not None else "",
                version=distribution.version if distribution is not None else "",
            )
        )
    return sorted(found, key=lambda driver: (driver.name.lower(), driver.type))


def find_drivers(wanted: str, drivers: Iterable[InstalledDriver]) -> list[InstalledDriver]:
    """Return the drivers of that name or type."""
    return [driver for driver in drivers if wanted in (driver.name, driver.type)]


class DriverList:
    """Installed drivers, as tables and machine formats."""

    def __init__(self, items: list[InstalledDriver]) -> None:
        self.items = items

    def rich_add_columns(self, table: Any, *, wide: bool = False) -> None:
        """Add the columns."""
        for title in ("NAME", "TYPE", *(("PACKAGE", "VERSION") if wide else ())):
            table.add_column(title, no_wrap=True)

    def rich_add_rows(self, table: Any, *, wide: bool = False) -> None:
        """Add a row per driver."""
        for item in self.items:
            table.add_row(item.name, item.type, *((item.package, item.version) if wide else ()))

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name of each driver."""
        names.extend(item.name for item in self.items)

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return the list as plain values."""
        return {"apiVersion": API_VERSION, "kind": "DriverList", "items": [asdict(item) for item in self.items]}
