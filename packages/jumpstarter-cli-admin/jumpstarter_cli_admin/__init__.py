"""`jmp admin`: accounts, access policies, leases, routers and the audit record of a lab."""

from __future__ import annotations

import click
from jumpstarter_cli_common.entry import MainGroup
from jumpstarter_cli_common.lazy import LazyCommand
from jumpstarter_cli_common.opt import opt_log_level

__all__ = ["admin"]

COMMANDS = {
    "apply": LazyCommand("jumpstarter_cli_admin.apply:apply", "Create or replace what a file describes."),
    "audit": LazyCommand("jumpstarter_cli_admin.audit:audit", "Show who did what, when."),
    "config": LazyCommand("jumpstarter_cli_admin.config:config", "Choose the lab that is administered."),
    "create": LazyCommand("jumpstarter_cli_admin.create:create", "Create accounts and access policies."),
    "delete": LazyCommand("jumpstarter_cli_admin.delete:delete", "Delete accounts and access policies."),
    "disable": LazyCommand("jumpstarter_cli_admin.change:disable", "Refuse an account, or leases of an exporter."),
    "enable": LazyCommand("jumpstarter_cli_admin.change:enable", "Undo what disable did."),
    "end": LazyCommand("jumpstarter_cli_admin.end:end", "End leases of others."),
    "export": LazyCommand("jumpstarter_cli_admin.transfer.commands:export", "Write a whole lab into a file."),
    "get": LazyCommand("jumpstarter_cli_admin.get:get", "List accounts, policies, leases and routers."),
    "import": LazyCommand("jumpstarter_cli_admin.import_res:import_res", "Write configs, or take over a whole lab."),
    "install": LazyCommand("jumpstarter_cli_admin.install:install", "Put a lab into a Kubernetes cluster."),
    "label": LazyCommand("jumpstarter_cli_admin.change:label", "Set and remove labels of accounts."),
    "rotate": LazyCommand("jumpstarter_cli_admin.rotate:rotate", "Replace the tokens of accounts."),
    "status": LazyCommand("jumpstarter_cli_admin.status:status", "Show which lab this is, and who you are there."),
    "uninstall": LazyCommand("jumpstarter_cli_admin.install:uninstall", "Take a lab out of a Kubernetes cluster."),
    "update": LazyCommand("jumpstarter_cli_admin.update:update", "Change access policies and user names."),
    "version": LazyCommand("jumpstarter_cli_common.version:version", "Show the version."),
}


@click.group("admin", cls=MainGroup, lazy=COMMANDS, short_help="Administer clients, exporters and leases.")
@opt_log_level
def admin() -> None:
    """Administer the clients, exporters, access policies, leases and routers of a lab.

    The lab is the one of the current admin config, see `jmp admin config`. Starting a lab by `jmp controller run` makes
    one for you.
    """
