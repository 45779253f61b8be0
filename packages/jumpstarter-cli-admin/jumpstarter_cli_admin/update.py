"""`jmp admin update`: changes access policies, and whom a client belongs to."""

from __future__ import annotations

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import OutputType, opt_output_all

from .apply import put_policies
from .change import change_account
from .records import Kind
from .shown import VIEWS, show
from .target import Target, opt_target


@click.group("update", cls=AliasedGroup)
def update() -> None:
    """Change access policies and user names."""


@update.command("policy", short_help="Replace access policies by those of a file.")
@click.option("-f", "--file", "path", required=True, metavar="FILE", help="YAML file; `-` for the standard input.")
@opt_target
@opt_output_all
@handle_exceptions
def update_policy(target: Target, path: str, output: OutputType) -> None:
    """Replace access policies that are there by those of a file.

    With metadata.resourceVersion, as `jmp admin get policy -o yaml` prints it, a policy that somebody else has changed
    meanwhile is not overwritten.
    """
    put_policies(target, path, output, create=False)


@update.command("client", short_help="Change the user name of a client.")
@click.argument("name")
@click.option("--oidc-username", required=True, help="Name at a login provider, with its prefix; empty for none.")
@opt_target
@opt_output_all
@handle_exceptions
def update_client(target: Target, name: str, oidc_username: str, output: OutputType) -> None:
    """Change which user of a login provider the client NAME belongs to."""
    account = change_account(target, Kind.CLIENT, name, username=lambda _: oidc_username)
    show(VIEWS[Kind.CLIENT], [account], output, single=True)
