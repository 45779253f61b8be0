"""The objects that an installation consists of, as they are shipped with this package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

CRD_NAMES = ("clients", "exporters", "leases", "exporteraccesspolicies")


def crds() -> list[dict[str, Any]]:
    """Return the definitions of the four kinds."""
    import yaml

    folder = files(__package__) / "data" / "crds"
    return [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in CRD_NAMES]
