"""`jmp admin delete`: removes accounts and access policies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import NameOutputType, opt_nointeractive, opt_output_name_only, validate_name

from .manifests import POLICY_KIND
from .records import Kind
from .target import Target, opt_target

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

    from .backend import Backend

opt_delete = click.option("-d", "--delete", is_flag=True, help="Delete the config on this machine as well.")


@click.group("delete", cls=AliasedGroup)
def delete() -> None:
    """Delete accounts and access policies."""


def _told(kind: str, name: str, target: Target, output: NameOutputType) -> None:
    if output is None:
        click.echo(f"Deleted {kind} '{name}' in namespace '{target.namespace}'")
    else:
        click.echo(f"{POLICY_KIND.lower() if kind == 'policy' else kind}.jumpstarter.dev/{name}")


def _delete(
    target: Target, kind: Kind, name: str | None, output: NameOutputType, *, local: bool, nointeractive: bool
) -> None:
    name = validate_name(name)
    if not nointeractive and sys.stdin.isatty() and kind in (Kind.CLIENT, Kind.EXPORTER):
        _confirm_leases(target, kind, name)
    target.run(lambda backend: backend.delete_account(kind, target.namespace, name))
    _told(kind, name, target, output)
    _delete_config(kind, name, output, local=local, nointeractive=nointeractive)


def _confirm_leases(target: Target, kind: Kind, name: str) -> None:
    """Ask before leases end that somebody may be using."""

    async def active(backend: Backend) -> list[LeaseState]:
        found = await backend.list_leases(
            target.namespace,
            only_active=True,
            client=name if kind is Kind.CLIENT else "",
            exporter=name if kind is Kind.EXPORTER else "",
        )
        return list(found)

    if leases := target.run(active):
        users = ", ".join(sorted({f"{lease.client}" for lease in leases}))
        what = f"{len(leases)} lease{'s' if len(leases) > 1 else ''} of {users}"
        click.confirm(f"Deleting {kind} '{name}' ends {what}. Continue?", abort=True, err=True)


def _delete_config(kind: Kind, name: str, output: NameOutputType, *, local: bool, nointeractive: bool) -> None:
    from .saving import CONFIGS

    configs = CONFIGS[kind]
    if kind is Kind.EXPORTER and not configs.user_config_exists(name) and configs.exists(name):
        click.echo(f"Warning: the config '{configs._get_system_path(name)}' stays; delete it as root.", err=True)
        return
    known = configs.exists(name) if kind in (Kind.CLIENT, Kind.EXPORTER) else name in configs.aliases()
    if not known or not (local or (not nointeractive and click.confirm("Delete the local config too?", err=True))):
        return
    if kind in (Kind.ADMIN, Kind.ROUTER):
        configs.path_of(name).unlink()
    elif kind is Kind.CLIENT:
        from jumpstarter.config.user import UserConfigV1Alpha1, current_alias

        current = current_alias()
        configs.delete(name)
        if current == name:
            user = UserConfigV1Alpha1.load_or_create()
            user.config.current_client = None
            UserConfigV1Alpha1.save(user)
    else:
        configs.delete(name)
    if output is None:
        click.echo(f"{kind.title} configuration successfully deleted")


@delete.command("client", short_help="Delete a client.")
@click.argument("name", required=False)
@opt_delete
@opt_nointeractive
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_client(target: Target, name: str | None, delete: bool, nointeractive: bool, output: NameOutputType) -> None:
    """Delete the client NAME: its leases end, its token is refused from now on."""
    _delete(target, Kind.CLIENT, name, output, local=delete, nointeractive=nointeractive)


@delete.command("exporter", short_help="Delete an exporter.")
@click.argument("name", required=False)
@opt_delete
@opt_nointeractive
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_exporter(
    target: Target, name: str | None, delete: bool, nointeractive: bool, output: NameOutputType
) -> None:
    """Delete the exporter NAME: its lease ends, its token is refused from now on."""
    _delete(target, Kind.EXPORTER, name, output, local=delete, nointeractive=nointeractive)


@delete.command("admin", short_help="Delete an admin.")
@click.argument("name", required=False)
@opt_delete
@opt_nointeractive
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_admin(target: Target, name: str | None, delete: bool, nointeractive: bool, output: NameOutputType) -> None:
    """Delete the admin NAME: its token is refused from now on. Nobody can delete the own account."""
    _delete(target, Kind.ADMIN, name, output, local=delete, nointeractive=nointeractive)


@delete.command("router", short_help="Delete a router.")
@click.argument("name", required=False)
@opt_delete
@opt_nointeractive
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_router(target: Target, name: str | None, delete: bool, nointeractive: bool, output: NameOutputType) -> None:
    """Delete the account of the router NAME: it gets no new streams."""
    _delete(target, Kind.ROUTER, name, output, local=delete, nointeractive=nointeractive)


@delete.command("policy", short_help="Delete an access policy.")
@click.argument("name")
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_policy(target: Target, name: str, output: NameOutputType) -> None:
    """Delete the access policy NAME. Without any policy, every client may have every exporter."""
    target.run(lambda backend: backend.delete_policy(target.namespace, name))
    _told("policy", name, target, output)


@delete.command("lease", short_help="End a lease.")
@click.argument("name")
@opt_target
@opt_output_name_only
@handle_exceptions
def delete_lease(target: Target, name: str, output: NameOutputType) -> None:
    """End the lease NAME, as `jmp admin end lease` does; it can be looked up afterwards."""
    from .end import end_leases

    end_leases(target, (name,), "", output)
