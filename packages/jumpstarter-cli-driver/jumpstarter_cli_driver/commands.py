"""The `j` commands that a driver's client offers, found without an exporter."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from uuid import UUID

import click

NOBODY = UUID(int=0)


def commands_of(client_path: str) -> list[dict[str, Any]]:
    """Return name, parameters and help of each command, those of nested groups after their group's name.

    A client that asks its exporter before it knows its commands, or can't be imported, has none here.

    Args:
        client_path: dotted path of the client class.
    """
    from jumpstarter.common.importlib import import_class

    try:
        client_class = import_class(client_path, allow=["*"], unsafe=True)
        # It is never asked for anything: the commands are only looked at.
        with ExitStack() as stack:
            client = client_class(uuid=NOBODY, labels={}, stub=None, portal=None, stack=stack)
            command = client.cli() if hasattr(client, "cli") else None
    except Exception:  # noqa: BLE001 - a driver's own code; the rest of the description is still worth having
        return []
    return _walk(command, "") if isinstance(command, click.Command) else []


def _walk(command: click.Command, prefix: str) -> list[dict[str, Any]]:
    if not isinstance(command, click.Group):
        return [_entry(command, prefix)]
    found: list[dict[str, Any]] = []
    for name in command.list_commands(click.Context(command)):
        member = command.commands[name]
        path = f"{prefix} {name}".strip()
        found += _walk(member, path)
    return found


def _entry(command: click.Command, path: str) -> dict[str, Any]:
    arguments = [parameter.human_readable_name for parameter in command.params if isinstance(parameter, click.Argument)]
    return {
        "name": path,
        "signature": " ".join([path, *arguments]).strip() or "(the driver's own name)",
        "help": command.get_short_help_str(limit=100),
    }
