"""`jmp admin get`: lists accounts, access policies, leases and routers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import OutputType, opt_output_all

from .backend import ALL_NAMESPACES
from .records import Account, Kind, Policy, Router
from .shown import DEVICES, LEASES, POLICIES, ROUTERS, VIEWS, show
from .target import Target, opt_all_namespaces, opt_target

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

    from .backend import Backend

opt_selector = click.option(
    "-l", "--selector", default="", help="Labels, as `key=value`, `key!=value`, `key in (a,b)`, `key` or `!key`."
)


@click.group("get", cls=AliasedGroup, short_help="List accounts, policies, leases and routers.")
def get() -> None:
    """List accounts, access policies, leases and routers."""


def _refuse(name: str | None, **options: object) -> None:
    given = [f"--{option.replace('_', '-')}" for option, value in options.items() if value]
    if name is not None and given:
        raise click.UsageError(f"NAME chooses one; {', '.join(given)} can't be used with it.")


def _get(
    target: Target,
    kind: Kind,
    name: str | None,
    selector: str,
    all_namespaces: bool,
    output: OutputType,
    *,
    devices: bool = False,
) -> None:
    _refuse(name, selector=selector, all_namespaces=all_namespaces)
    machine = output in ("json", "yaml")

    async def look(backend: Backend) -> Sequence[Account]:
        if name is not None:
            return [await backend.get_account(kind, target.namespace, name)]
        namespace = ALL_NAMESPACES if all_namespaces else target.namespace
        return await backend.list_accounts(kind, namespace, selector=selector, devices=devices or machine)

    show(
        DEVICES if devices else VIEWS[kind],
        target.run(look),
        output,
        single=name is not None,
        namespace=target.namespace,
        namespaces=all_namespaces,
    )


@get.command("client", short_help="List clients.")
@click.argument("name", required=False)
@opt_selector
@opt_all_namespaces
@opt_target
@opt_output_all
@handle_exceptions
def get_client(target: Target, name: str | None, selector: str, all_namespaces: bool, output: OutputType) -> None:
    """List the clients, or show the client NAME."""
    _get(target, Kind.CLIENT, name, selector, all_namespaces, output)


@get.command("exporter", short_help="List exporters.")
@click.argument("name", required=False)
@opt_selector
@click.option("-d", "--devices", is_flag=True, help="Show a row for each device.")
@opt_all_namespaces
@opt_target
@opt_output_all
@handle_exceptions
def get_exporter(
    target: Target, name: str | None, selector: str, devices: bool, all_namespaces: bool, output: OutputType
) -> None:
    """List the exporters, or show the exporter NAME."""
    _get(target, Kind.EXPORTER, name, selector, all_namespaces, output, devices=devices)


@get.command("admin", short_help="List admins.")
@click.argument("name", required=False)
@opt_selector
@opt_all_namespaces
@opt_target
@opt_output_all
@handle_exceptions
def get_admin(target: Target, name: str | None, selector: str, all_namespaces: bool, output: OutputType) -> None:
    """List the admins, or show the admin NAME."""
    _get(target, Kind.ADMIN, name, selector, all_namespaces, output)


@get.command("router", short_help="List routers.")
@click.argument("name", required=False)
@opt_target
@opt_output_all
@handle_exceptions
def get_router(target: Target, name: str | None, output: OutputType) -> None:
    """List the routers and what they carry, or show the router NAME."""

    async def look(backend: Backend) -> Sequence[Router]:
        return await backend.list_routers()

    routers = target.run(look)
    if name is not None:
        routers = [router for router in routers if router.name == name]
        if not routers:
            raise ClickExceptionRed(
                f"router {name} not found", reason="not-found", hint="`jmp admin get routers` lists them."
            )
    show(ROUTERS, routers, output, single=name is not None)


@get.command("policy", short_help="List access policies.")
@click.argument("name", required=False)
@opt_all_namespaces
@opt_target
@opt_output_all
@handle_exceptions
def get_policy(target: Target, name: str | None, all_namespaces: bool, output: OutputType) -> None:
    """List the access policies, a row for each rule, or show the policy NAME."""
    _refuse(name, all_namespaces=all_namespaces)

    async def look(backend: Backend) -> Sequence[Policy]:
        if name is not None:
            return [await backend.get_policy(target.namespace, name)]
        return await backend.list_policies(ALL_NAMESPACES if all_namespaces else target.namespace)

    show(
        POLICIES,
        target.run(look),
        output,
        single=name is not None,
        namespace=target.namespace,
        namespaces=all_namespaces,
    )


@get.command("lease", short_help="List leases.")
@click.argument("name", required=False)
@click.option("-a", "--all", "show_all", is_flag=True, help="List leases that have ended too.")
@click.option("--client", default="", help="Only those of this client.")
@click.option("--exporter", default="", help="Only those that have this exporter.")
@opt_target
@opt_output_all
@handle_exceptions
def get_lease(target: Target, name: str | None, show_all: bool, client: str, exporter: str, output: OutputType) -> None:
    """List the leases of all clients that have not ended, or show the lease NAME."""
    _refuse(name, all=show_all, client=client, exporter=exporter)

    async def look(backend: Backend) -> Sequence[LeaseState]:
        if name is not None:
            return [await backend.get_lease(target.namespace, name)]
        return await backend.list_leases(target.namespace, only_active=not show_all, client=client, exporter=exporter)

    show(LEASES, target.run(look), output, single=name is not None, namespace=target.namespace)
