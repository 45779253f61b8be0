"""`jmp admin config`: who one is to which lab, and which lab commands go to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import OutputMode, OutputType, opt_output_all
from jumpstarter_cli_common.print import model_print

from .target import NO_CONFIG_HINT, complete_admins, load_config, opt_config

HIDDEN = "<hidden>"

arg_alias = click.argument("alias", shell_complete=complete_admins)


@click.group("config", cls=AliasedGroup)
def config() -> None:
    """Choose the lab that is administered.

    An admin config says who you are to one lab. Commands go to the current one, or to that of --admin or JMP_ADMIN.
    """


class AdminConfigs:
    """All admin configs, for printing."""

    def __init__(self, configs: list[AdminConfigV1Alpha1], current: str | None) -> None:
        self._configs, self._current = configs, current

    def rich_add_columns(self, table: Any, wide: bool = False) -> None:
        """Add the columns."""
        for title in ("CURRENT", "ALIAS", "ENDPOINT", "ADMIN", "NAMESPACE", *(("PATH",) if wide else ())):
            table.add_column(title)

    def rich_add_rows(self, table: Any, wide: bool = False) -> None:
        """Add a row per config."""
        for each in self._configs:
            mark = "*" if each.alias == self._current else ""
            who = (each.endpoint, each.metadata.name, each.metadata.namespace)
            table.add_row(mark, each.alias, *who, *((each.path,) if wide else ()))

    def rich_add_names(self, names: list[str]) -> None:
        """Append the aliases."""
        names.extend(each.alias for each in self._configs)

    def _object(self) -> dict[str, Any]:
        return {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "currentConfig": self._current,
            "items": [{"alias": each.alias, "path": str(each.path), **_values(each)} for each in self._configs],
            "kind": "AdminConfigList",
        }

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return json.dumps(self._object(), indent=4, ensure_ascii=False)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2."""
        import yaml

        return str(yaml.safe_dump(self._object(), indent=2))


def _values(item: AdminConfigV1Alpha1, *, secrets: bool = False) -> dict[str, Any]:
    values = item.model_dump(mode="json", exclude_none=True)
    return values if secrets else values | {"token": HIDDEN}


@config.command("list", short_help="List admin configs.")
@opt_output_all
@handle_exceptions
def list_configs(output: OutputType) -> None:
    """List the admin configs of this machine; the current one is marked by a star."""
    configs = []
    for alias in AdminConfigV1Alpha1.aliases():
        try:
            configs.append(AdminConfigV1Alpha1.load(alias))
        except Exception as error:  # noqa: BLE001 - one broken file must not hide the others
            from jumpstarter_cli_common.exceptions import describe_any

            click.echo(f"Warning: left out of the list: {describe_any(error).message}", err=True)
    model_print(AdminConfigs(configs, AdminConfigV1Alpha1.current()), output)
    if not configs:
        click.echo(f"Hint: {NO_CONFIG_HINT}", err=True)


@config.command("current", short_help="Show the alias of the current admin config.")
@handle_exceptions
def current_config() -> None:
    """Show the alias of the current admin config."""
    click.echo(load_config(None, None).alias)


@config.command("use", short_help="Choose the current admin config.")
@arg_alias
@handle_exceptions
def use_config(alias: str) -> None:
    """Make ALIAS the admin config that commands use from now on."""
    AdminConfigV1Alpha1.use(alias)
    chosen = AdminConfigV1Alpha1.load(alias)
    click.echo(f"Administering {chosen.endpoint} as '{chosen.metadata.name}' from now on.")


@config.command("show", short_help="Show an admin config.")
@click.argument("alias", required=False, shell_complete=complete_admins)
@click.option("--secrets", is_flag=True, help="Show the token too.")
@opt_config
@opt_output_all
@handle_exceptions
def show_config(
    alias: str | None, secrets: bool, admin_alias: str | None, admin_config: Path | None, output: OutputType
) -> None:
    """Show the admin config ALIAS, or the one that commands use."""
    found = load_config(alias or admin_alias, None if alias else admin_config)
    if output == OutputMode.NAME:
        click.echo(found.alias)
    elif output == OutputMode.JSON:
        click.echo(json.dumps(_values(found, secrets=secrets), indent=4))
    else:
        import yaml

        click.echo(yaml.safe_dump(_values(found, secrets=secrets), indent=2, sort_keys=False), nl=False)


@config.command("import", short_help="Take over an admin config from a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--alias", default=None, help="Alias on this machine  [default: name of the file]")
@click.option("--endpoint", default=None, help="Where this machine reaches the lab, when not as the file says.")
@handle_exceptions
def import_config(file: Path, alias: str | None, endpoint: str | None) -> None:
    """Take over the admin config of a file: from another admin, or admin.yaml in the folder of a lab."""
    taken = AdminConfigV1Alpha1.from_file(file)
    taken.alias = alias or taken.alias
    if taken.alias in AdminConfigV1Alpha1.aliases():
        raise ClickExceptionRed(
            f"An admin config with the alias '{taken.alias}' exists already.",
            reason="already-exists",
            hint="Choose another one with --alias.",
        )
    if endpoint is not None:
        taken.endpoint = endpoint
    path = AdminConfigV1Alpha1.save(taken)
    text = f"Saved admin config '{taken.alias}' in {path}"
    if AdminConfigV1Alpha1.current() is None:
        AdminConfigV1Alpha1.use(taken.alias)
        text += " and made it the current one"
    click.echo(f"{text}.")


@config.command("delete", short_help="Delete an admin config.")
@arg_alias
@handle_exceptions
def delete_config(alias: str) -> None:
    """Delete the admin config ALIAS on this machine; the account stays."""
    path = AdminConfigV1Alpha1.path_of(alias)
    try:
        path.unlink()
    except FileNotFoundError:
        raise ClickExceptionRed(
            f"An admin config with the alias '{alias}' does not exist.", reason="file-not-found"
        ) from None
    click.echo(f"Deleted admin config '{alias}'.")
