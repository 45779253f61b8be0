"""`jmp config client`: configs that say who a user is to which controller."""

from __future__ import annotations

from pathlib import Path

import click
from jumpstarter.config.client import ClientConfigV1Alpha1, ClientConfigV1Alpha1Drivers
from jumpstarter.config.user import UserConfigV1Alpha1
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.aliases import complete_alias
from jumpstarter_cli_common.config import NO_CONFIG_HINT
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import (
    OutputType,
    PathOutputType,
    opt_insecure_tls,
    opt_nointeractive,
    opt_output_all,
    opt_output_path_only,
)
from jumpstarter_cli_common.print import model_print

from .config_files import announce, ask_identity, opt_identity, rename, show
from .prompts import ask, split_allow

arg_name = click.argument("name", metavar="ALIAS", shell_complete=complete_alias("clients"))
arg_optional_name = click.argument("name", metavar="[ALIAS]", required=False, shell_complete=complete_alias("clients"))


@click.group("client", cls=AliasedGroup)
def config_client() -> None:
    """Configs of clients: who you are to which controller."""


def _missing(alias: str) -> ClickExceptionRed:
    return ClickExceptionRed(f"A client config with the alias '{alias}' does not exist.", reason="file-not-found")


@config_client.command("create", short_help="Create a client config.")
@click.argument("alias")
@opt_identity("client", "Token; better left out and pasted when asked, or see `jmp login`.")
@click.option(
    "-a", "--allow", default=None, help="Client classes of drivers that may be imported: comma-separated globs."
)
@click.option("--unsafe", is_flag=True, help="Import any client class that an exporter names. Trusts all exporters.")
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write to this file instead."
)
@opt_insecure_tls
@opt_nointeractive
@opt_output_path_only
@handle_exceptions
def create_client_config(
    alias: str,
    namespace: str | None,
    name: str | None,
    endpoint: str | None,
    token: str | None,
    allow: str | None,
    unsafe: bool,
    out: Path | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: PathOutputType,
) -> None:
    """Create the client config ALIAS; what is not given is asked for.

    The first config becomes the current one.
    """
    if out is None and ClientConfigV1Alpha1.exists(alias):
        raise ClickExceptionRed(f"A client config with the alias '{alias}' exists already.", reason="already-exists")
    identity = ask_identity(
        "client",
        namespace=namespace,
        name=name,
        endpoint=endpoint,
        token=token,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
    )
    config = ClientConfigV1Alpha1(
        alias=alias,
        **identity,
        drivers=ClientConfigV1Alpha1Drivers(
            allow=split_allow(
                ""
                if unsafe and allow is None
                else ask(
                    allow,
                    "--allow",
                    "Allowed client classes (comma-separated)",
                    nointeractive=nointeractive,
                    default="",
                )
            ),
            unsafe=unsafe,
        ),
    )
    path = ClientConfigV1Alpha1.save(config, out)
    text = f"Created client config '{alias}' in {path}"
    if out is None and [item.alias for item in ClientConfigV1Alpha1.list().items] == [alias]:
        UserConfigV1Alpha1.load_or_create().use_client(alias)
        text += " and made it the current one"
    announce(f"{text}.", path, output)


def set_next_client(name: str) -> str | None:
    """When `name` is the current client, make another one current, or none; return the alias that is then current."""
    user = UserConfigV1Alpha1.load_or_create() if UserConfigV1Alpha1.exists() else None
    if user is None or user.config.current_client is None:
        return None
    if user.config.current_client.alias != name:
        return user.config.current_client.alias
    following = next((item.alias for item in ClientConfigV1Alpha1.list().items if item.alias != name), None)
    user.use_client(following)
    return following


@config_client.command("delete", short_help="Delete a client config.")
@arg_name
@opt_output_path_only
@handle_exceptions
def delete_client_config(name: str, output: PathOutputType) -> None:
    """Delete the client config ALIAS; if it is the current one, another one becomes current."""
    if not ClientConfigV1Alpha1.exists(name):
        raise _missing(name)
    current = set_next_client(name)
    path = ClientConfigV1Alpha1.delete(name)
    announce(f"Deleted client config '{name}'; the current one is {current or 'none'}.", path, output)


@config_client.command("list", short_help="List the client configs.")
@opt_output_all
@handle_exceptions
def list_client_configs(output: OutputType) -> None:
    """List the client configs; a star marks the current one."""
    model_print(ClientConfigV1Alpha1.list(), output)


@config_client.command("use", short_help="Choose the current client config.")
@arg_name
@opt_output_path_only
@handle_exceptions
def use_client_config(name: str, output: PathOutputType) -> None:
    """Make the client config ALIAS the one that commands use where none is named."""
    if not ClientConfigV1Alpha1.exists(name):
        raise _missing(name)
    path = UserConfigV1Alpha1.load_or_create().use_client(name)
    announce(f"Using client config '{name}'.", path or "", output)


def _load(name: str | None) -> ClientConfigV1Alpha1:
    if name is not None:
        return ClientConfigV1Alpha1.load(name)
    current = UserConfigV1Alpha1.load().config.current_client if UserConfigV1Alpha1.exists() else None
    if current is None:
        raise ClickExceptionRed("No client config is chosen.", reason="configuration", hint=NO_CONFIG_HINT)
    return current


@config_client.command("current", short_help="Print the alias of the current client config.")
@opt_output_path_only
@handle_exceptions
def current_client_config(output: PathOutputType) -> None:
    """Print the alias of the current client config."""
    config = _load(None)
    announce(config.alias, config.path or "", output)


@config_client.command("show", short_help="Print a client config.")
@arg_optional_name
@click.option("--show-token", is_flag=True, help="Print the tokens too.")
@opt_output_all
@handle_exceptions
def show_client_config(name: str | None, show_token: bool, output: OutputType) -> None:
    """Print the client config ALIAS, or the current one, as it is in effect; tokens are hidden."""
    show(_load(name), output, secrets=show_token)


@config_client.command("rename", short_help="Rename a client config.")
@arg_name
@click.argument("new_name", metavar="NEW_ALIAS")
@opt_output_path_only
@handle_exceptions
def rename_client_config(name: str, new_name: str, output: PathOutputType) -> None:
    """Give the client config ALIAS another alias; a current one stays current."""
    user = UserConfigV1Alpha1.load() if UserConfigV1Alpha1.exists() else None
    current = user.config.current_client if user is not None else None
    source, target = ClientConfigV1Alpha1._get_path(name), ClientConfigV1Alpha1._get_path(new_name)
    rename(source, target, "Client")
    if user is not None and current is not None and current.alias == name:
        user.use_client(new_name)
    announce(f"Renamed client config '{name}' to '{new_name}'.", target, output)


@config_client.command("validate", short_help="Check a client config.")
@arg_optional_name
@handle_exceptions
def validate_client_config(name: str | None) -> None:
    """Check the client config ALIAS, or the current one: its keys and values, not whether the controller answers."""
    config = _load(name)
    click.echo(f"Client config '{config.alias}' in {config.path} is valid.")
