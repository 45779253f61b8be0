"""Client of outlets that are switched by SNMP."""

from __future__ import annotations

from dataclasses import dataclass

from jumpstarter_driver_power.client import PowerClient

__all__ = ["SNMPServerClient"]


@dataclass(kw_only=True)
class SNMPServerClient(PowerClient):
    """An outlet of a power distribution unit."""
