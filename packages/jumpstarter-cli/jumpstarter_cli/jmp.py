"""The root of `jmp`: names of all commands; their modules are loaded one by one, when they are used."""

from __future__ import annotations

from importlib.util import find_spec

import click
from jumpstarter_cli_common.entry import MainGroup
from jumpstarter_cli_common.lazy import LazyCommand
from jumpstarter_cli_common.opt import opt_log_level
from jumpstarter_cli_common.version import opt_version

COMMANDS = {
    "admin": LazyCommand("jumpstarter_cli.admin:admin", "Administer clients, exporters and leases."),
    "auth": LazyCommand("jumpstarter_cli.auth:auth", "Look after the token of a client."),
    "completion": LazyCommand("jumpstarter_cli.completion:completion", "Print a script for completion in a shell."),
    "config": LazyCommand("jumpstarter_cli.config:config", "Manage client and exporter configs."),
    "controller": LazyCommand("jumpstarter_cli.controller:controller", "Run the server of a lab."),
    "create": LazyCommand("jumpstarter_cli.create:create", "Create leases."),
    "delete": LazyCommand("jumpstarter_cli.delete:delete", "Delete leases."),
    "driver": LazyCommand("jumpstarter_cli_driver:driver", "List, show, check and write drivers."),
    "get": LazyCommand("jumpstarter_cli.get:get", "List exporters and leases."),
    "login": LazyCommand("jumpstarter_cli.login:login", "Log in and keep the token in a config."),
    "router": LazyCommand("jumpstarter_cli.controller:router", "Run a router of a lab."),
    "run": LazyCommand("jumpstarter_cli.run:run", "Run an exporter."),
    "shell": LazyCommand("jumpstarter_cli.shell:shell", "Open a shell, or run a command, with a device."),
    "update": LazyCommand("jumpstarter_cli.update:update", "Change leases."),
    "version": LazyCommand("jumpstarter_cli_common.version:version", "Show the version."),
}

EXTENSIONS = {
    "mcp": ("jumpstarter_mcp", "cli:mcp", "Serve AI assistants."),
}
"""Commands of packages that may or may not be installed: package, place within it, short help."""


def _commands() -> dict[str, LazyCommand]:
    found = {
        name: LazyCommand(f"{package}.{place}", text)
        for name, (package, place, text) in EXTENSIONS.items()
        if find_spec(package) is not None
    }
    return COMMANDS | found


@click.group(cls=MainGroup, lazy=_commands())
@opt_version
@opt_log_level
def jmp() -> None:
    """Jumpstarter: use and offer real and virtual devices."""
