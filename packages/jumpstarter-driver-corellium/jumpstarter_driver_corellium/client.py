"""Client of Corellium's virtual devices."""

from __future__ import annotations

from dataclasses import dataclass

from jumpstarter_driver_composite.client import CompositeClient

__all__ = ["CorelliumClient"]


@dataclass(kw_only=True)
class CorelliumClient(CompositeClient):
    """A virtual device: its children are `power` and `serial`."""
