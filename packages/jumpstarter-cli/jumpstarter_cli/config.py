"""`jmp config`: the configs on this machine."""

from __future__ import annotations

import click
from jumpstarter_cli_common.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "client": LazyCommand(
        "jumpstarter_cli.config_client:config_client", "Configs of clients: who you are to which controller."
    ),
    "exporter": LazyCommand(
        "jumpstarter_cli.config_exporter:config_exporter", "Configs of exporters: which devices to offer."
    ),
}


@click.group("config", cls=LazyGroup, lazy=COMMANDS)
def config() -> None:
    """Manage client and exporter configs."""
