"""`jmp admin import`: writes configs of accounts that are there."""

from __future__ import annotations

from pathlib import Path

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import (
    PathOutputType,
    confirm_insecure_tls,
    opt_insecure_tls,
    opt_nointeractive,
    opt_output_path_only,
)

from .records import Kind
from .saving import CONFIGS, Wanted, opt_drivers, opt_out, patterns, save_and_tell
from .target import Target, opt_target
from .transfer.commands import import_lab


@click.group("import", cls=AliasedGroup)
def import_res() -> None:
    """Write configs, or take over a whole lab.

    Unless it is in a cluster, a lab keeps no tokens: the config gets a new one, and configs with the former one stop
    working some minutes later.
    """


import_res.add_command(import_lab)


def _import(
    target: Target,
    kind: Kind,
    name: str,
    *,
    out: Path | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: PathOutputType,
    allow: str | None = None,
    unsafe: bool = False,
) -> None:
    confirm_insecure_tls(insecure_tls, nointeractive)
    configs = CONFIGS[kind]
    exists = configs.exists(name) if kind in (Kind.CLIENT, Kind.EXPORTER) else name in configs.aliases()
    if exists and out is None:
        raise ClickExceptionRed(
            f"{kind.title} config '{name}' exists already.",
            reason="already-exists",
            hint=f"`jmp admin rotate {kind} {name} --save` gives it a new token; --out FILE writes another one.",
        )
    allowed, unsafe = patterns(allow, unsafe, ask=kind is Kind.CLIENT and not nointeractive)
    wanted = Wanted(kind=kind, alias=name, out=out, allow=allowed, unsafe=unsafe, insecure_tls=insecure_tls)
    wanted.check()
    credentials = target.run(lambda backend: backend.credentials(kind, target.namespace, name))
    path = save_and_tell(wanted, credentials, quiet=output is not None)
    if output is not None:
        click.echo(str(path))
    elif credentials.renewed:
        click.echo("It has a new token; configs with the former one stop working in some minutes.", err=True)


@import_res.command("client", short_help="Write the config of a client.")
@click.argument("name")
@opt_out
@opt_drivers
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_path_only
@handle_exceptions
def import_client(
    target: Target,
    name: str,
    out: Path | None,
    allow: str | None,
    unsafe: bool,
    insecure_tls: bool,
    nointeractive: bool,
    output: PathOutputType,
) -> None:
    """Write a config of the client NAME, with a new token."""
    _import(
        target,
        Kind.CLIENT,
        name,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
        allow=allow,
        unsafe=unsafe,
    )


@import_res.command("exporter", short_help="Write the config of an exporter.")
@click.argument("name", default="default")
@opt_out
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_path_only
@handle_exceptions
def import_exporter(
    target: Target, name: str, out: Path | None, insecure_tls: bool, nointeractive: bool, output: PathOutputType
) -> None:
    """Write a config of the exporter NAME, with a new token."""
    _import(
        target,
        Kind.EXPORTER,
        name,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
    )


@import_res.command("router", short_help="Write the config of a router.")
@click.argument("name")
@opt_out
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_path_only
@handle_exceptions
def import_router(
    target: Target, name: str, out: Path | None, insecure_tls: bool, nointeractive: bool, output: PathOutputType
) -> None:
    """Write a config of the router NAME, with a new token."""
    _import(
        target,
        Kind.ROUTER,
        name,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
    )
