"""`jmp config exporter`: configs that say which devices an exporter offers."""

from __future__ import annotations

import sys

import click
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.aliases import complete_alias
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

arg_alias = click.argument("alias", default="default", shell_complete=complete_alias("exporters"))


@click.group("exporter", cls=AliasedGroup)
def config_exporter() -> None:
    """Configs of exporters: which devices to offer."""


def _missing(alias: str) -> ClickExceptionRed:
    return ClickExceptionRed(
        f"Exporter config '{alias}' does not exist.",
        reason="file-not-found",
        hint="`jmp config exporter list` shows those that do.",
    )


@config_exporter.command("create", short_help="Create an exporter config.")
@arg_alias
@opt_identity("exporter", "Token; better left out and pasted when asked.")
@opt_insecure_tls
@opt_nointeractive
@opt_output_path_only
@handle_exceptions
def create_exporter_config(
    alias: str,
    namespace: str | None,
    name: str | None,
    endpoint: str | None,
    token: str | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: PathOutputType,
) -> None:
    """Create the exporter config ALIAS; what is not given is asked for. Its drivers are added with `edit`."""
    if ExporterConfigV1Alpha1.user_config_exists(alias):
        raise ClickExceptionRed(f"Exporter config '{alias}' exists already.", reason="already-exists")
    identity = ask_identity(
        "exporter",
        namespace=namespace,
        name=name,
        endpoint=endpoint,
        token=token,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
    )
    config = ExporterConfigV1Alpha1(alias=alias, **identity)
    path = ExporterConfigV1Alpha1.save(config)
    announce(f"Created exporter config '{alias}' in {path}; add drivers with `jmp config exporter edit`.", path, output)


@config_exporter.command("delete", short_help="Delete an exporter config.")
@arg_alias
@opt_output_path_only
@handle_exceptions
def delete_exporter_config(alias: str, output: PathOutputType) -> None:
    """Delete the exporter config ALIAS of the user; those of the machine are left alone."""
    if not ExporterConfigV1Alpha1.exists(alias):
        raise _missing(alias)
    path = ExporterConfigV1Alpha1.delete(alias)
    announce(f"Deleted exporter config '{alias}' ({path}).", path, output)
    if ExporterConfigV1Alpha1.exists(alias):
        click.echo(
            f"Warning: a config of the same alias remains in the system location: "
            f"{ExporterConfigV1Alpha1.resolve_path(alias)}",
            err=True,
        )


@config_exporter.command("edit", short_help="Edit an exporter config.")
@arg_alias
@handle_exceptions
def edit_exporter_config(alias: str) -> None:
    """Open the exporter config ALIAS in your editor, and check it afterwards."""
    if not ExporterConfigV1Alpha1.exists(alias):
        raise _missing(alias)
    path = ExporterConfigV1Alpha1.resolve_path(alias)
    while True:
        click.edit(filename=str(path))
        try:
            ExporterConfigV1Alpha1.load_path(path)
        except ConfigurationError as error:
            click.echo(f"The config has a mistake and can't be used as it is: {error}", err=True)
            if not (sys.stdin.isatty() and click.confirm("Edit again?", default=True, err=True)):
                raise
        else:
            return


@config_exporter.command("list", short_help="List the exporter configs.")
@opt_output_all
@handle_exceptions
def list_exporter_configs(output: OutputType) -> None:
    """List the exporter configs of the user and of the machine."""
    model_print(ExporterConfigV1Alpha1.list(), output)


@config_exporter.command("show", short_help="Print an exporter config.")
@arg_alias
@click.option("--show-token", is_flag=True, help="Print the token too.")
@opt_output_all
@handle_exceptions
def show_exporter_config(alias: str, show_token: bool, output: OutputType) -> None:
    """Print the exporter config ALIAS as it is in effect; the token is hidden."""
    show(ExporterConfigV1Alpha1.load(alias), output, secrets=show_token)


@config_exporter.command("rename", short_help="Rename an exporter config.")
@arg_alias
@click.argument("new_alias")
@opt_output_path_only
@handle_exceptions
def rename_exporter_config(alias: str, new_alias: str, output: PathOutputType) -> None:
    """Give the exporter config ALIAS of the user another alias."""
    if not ExporterConfigV1Alpha1.exists(alias):
        raise _missing(alias)
    source, target = ExporterConfigV1Alpha1._get_path(alias), ExporterConfigV1Alpha1._get_path(new_alias)
    rename(source, target, "Exporter")
    announce(f"Renamed exporter config '{alias}' to '{new_alias}'.", target, output)


@config_exporter.command("validate", short_help="Check an exporter config.")
@click.argument("alias", default="default", metavar="[ALIAS|PATH]", shell_complete=complete_alias("exporters"))
@click.option("--load-drivers", is_flag=True, help="Make the driver objects too, as an exporter does when it starts.")
@handle_exceptions
def validate_exporter_config(alias: str, load_drivers: bool) -> None:
    """Check an exporter config: keys, values, and with --load-drivers whether each driver takes its settings."""
    is_path = "/" in alias or alias.endswith((".yaml", ".yml"))
    config = ExporterConfigV1Alpha1.load_path(alias) if is_path else ExporterConfigV1Alpha1.load(alias)
    if load_drivers:
        config.instantiate().close()
    click.echo(f"Exporter config {config.path} is valid.")
