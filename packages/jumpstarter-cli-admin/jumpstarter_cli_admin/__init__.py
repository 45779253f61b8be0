"""`jmp admin`: accounts, access policies, leases and audit of a lab."""

from __future__ import annotations

import click


@click.group()
def admin() -> None:
    """Administer clients, exporters, access policies and leases."""
