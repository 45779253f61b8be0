"""`jmp admin status`: which server this is, who one is there, and what it has."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import OutputMode, OutputType, opt_output_all
from jumpstarter_cli_common.print import print_details

from .backend import ALL_NAMESPACES
from .records import Account, Kind, Router, Server
from .target import Target, opt_target

if TYPE_CHECKING:
    from .backend import Backend


@click.command("status", short_help="Show which lab this is, and who you are there.")
@opt_target
@opt_output_all
@handle_exceptions
def status(target: Target, output: OutputType) -> None:
    """Show which lab this is, who you are there, and how many of what it has."""

    async def look(backend: Backend) -> tuple[Server, dict[Kind, list[Account]], list[Router], int]:
        server = await backend.server()
        place = ALL_NAMESPACES if server.everywhere else target.namespace
        accounts = {kind: list(await backend.list_accounts(kind, place)) for kind in Kind}
        routers = list(await backend.list_routers())
        leases = await backend.list_leases(target.namespace, only_active=True)
        return server, accounts, routers, len(leases)

    server, accounts, routers, leases = target.run(look)
    exporters = accounts[Kind.EXPORTER]
    facts: dict[str, Any] = {
        "endpoint": server.endpoint,
        "version": server.version,
        "admin": server.admin.rpartition("/")[2],
        "namespace": target.namespace,
        "clients": len(accounts[Kind.CLIENT]),
        "exporters": len(exporters),
        "exportersOnline": sum(each.online for each in exporters),
        "exportersLeased": sum(bool(each.lease) for each in exporters),
        "leases": leases,
        "routersOnline": sum(bool(each.online) for each in routers),
        "tokenExpires": None,
    }
    own = next((each for each in accounts[Kind.ADMIN] if server.admin.endswith(f"/admins/{each.name}")), None)
    if own is not None and own.token_expires is not None:
        facts["tokenExpires"] = own.token_expires.isoformat(timespec="seconds")
    match output:
        case OutputMode.JSON:
            click.echo(json.dumps(facts, indent=4))
        case OutputMode.YAML:
            import yaml

            click.echo(yaml.safe_dump(facts, indent=2), nl=False)
        case OutputMode.NAME:
            click.echo(server.endpoint)
        case _:
            print_details(_details(facts, own))


def _details(facts: dict[str, Any], own: Account | None) -> list[tuple[str, str]]:
    from jumpstarter.client.wording import left

    token = ""
    if own is not None and own.token_expires is not None:
        rest = (own.token_expires - datetime.now(UTC)).total_seconds()
        token = f"valid for {left(rest)}, until {own.token_expires.astimezone():%Y-%m-%d %H:%M}"
    rows = [
        ("Lab", f"{facts['endpoint']} (version {facts['version']})"),
        ("Admin", f"{facts['admin']}"),
        ("Token", token),
        ("Namespace", facts["namespace"]),
        ("Clients", str(facts["clients"])),
        (
            "Exporters",
            f"{facts['exporters']}: {facts['exportersOnline']} online, {facts['exportersLeased']} leased",
        ),
        ("Leases", f"{facts['leases']} in this namespace"),
        ("Routers", f"{facts['routersOnline']} online"),
    ]
    return [(name, text) for name, text in rows if text]
