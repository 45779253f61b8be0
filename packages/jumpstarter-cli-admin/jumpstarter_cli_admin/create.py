"""`jmp admin create`: makes accounts and access policies."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.durations import POSITIVE_DURATION
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import (
    OutputType,
    confirm_insecure_tls,
    opt_insecure_tls,
    opt_labels,
    opt_nointeractive,
    opt_output_all,
    validate_name,
)

from .records import Kind
from .saving import Wanted, opt_drivers, opt_out, patterns, save_and_tell
from .shown import VIEWS, show
from .target import Target, opt_target

opt_save = click.option("-s", "--save", is_flag=True, help="Save the config for this machine, under the name as alias.")
opt_oidc_username = click.option(
    "--oidc-username", default=None, help="Name at a login provider, with its prefix: keycloak:alice."
)
opt_token_life = click.option(
    "--token-life",
    type=POSITIVE_DURATION,
    default=None,
    help="How long the token is valid: 30d, 12h  [default: as the server is set, 90 days]",
)


@click.group("create", cls=AliasedGroup)
def create() -> None:
    """Create accounts and access policies."""


def _create(
    target: Target,
    kind: Kind,
    name: str | None,
    *,
    labels: dict[str, str],
    save: bool,
    out: Path | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: OutputType,
    username: str | None = None,
    token_life: timedelta | None = None,
    allow: str | None = None,
    unsafe: bool = False,
    **config: Any,
) -> None:
    name = validate_name(name)
    confirm_insecure_tls(insecure_tls, nointeractive)
    # All questions come first, so that to give up one leaves nothing half done.
    saves = save or out is not None or (not nointeractive and click.confirm("Save configuration?", err=True))
    wanted: Wanted | None = None
    if saves:
        allowed, unsafe = patterns(allow, unsafe, ask=kind is Kind.CLIENT and not nointeractive)
        wanted = Wanted(
            kind=kind, alias=name, out=out, allow=allowed, unsafe=unsafe, insecure_tls=insecure_tls, **config
        )
        wanted.check()
    if output is None:
        click.echo(f"Creating {kind} '{name}' in namespace '{target.namespace}'", err=True)
    credentials = target.run(
        lambda backend: backend.create_account(
            kind, target.namespace, name, labels=labels, username=username or "", token_life=token_life
        )
    )
    if wanted is not None:
        save_and_tell(wanted, credentials, quiet=output is not None)
    elif output is None:
        click.echo(f"No config was written; `jmp admin import {kind} {name}` does that later.", err=True)
    show(VIEWS[kind], [credentials.account], output, single=True)


@create.command("client", short_help="Create a client.")
@click.argument("name", required=False)
@opt_save
@opt_drivers
@opt_out
@opt_labels()
@opt_oidc_username
@opt_token_life
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_all
@handle_exceptions
def create_client(
    target: Target,
    name: str | None,
    save: bool,
    allow: str | None,
    unsafe: bool,
    out: Path | None,
    labels: dict[str, str],
    oidc_username: str | None,
    token_life: timedelta | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: OutputType,
) -> None:
    """Create the client NAME, and its config if wanted. The first client of this machine becomes the current one."""
    _create(
        target,
        Kind.CLIENT,
        name,
        labels=labels,
        save=save,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
        username=oidc_username,
        token_life=token_life,
        allow=allow,
        unsafe=unsafe,
    )


@create.command("exporter", short_help="Create an exporter.")
@click.argument("name", required=False)
@opt_save
@opt_out
@opt_labels(required=True)
@opt_oidc_username
@opt_token_life
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_all
@handle_exceptions
def create_exporter(
    target: Target,
    name: str | None,
    save: bool,
    out: Path | None,
    labels: dict[str, str],
    oidc_username: str | None,
    token_life: timedelta | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: OutputType,
) -> None:
    """Create the exporter NAME, and its config if wanted, to which you add the drivers.

    Leases find it by its labels.
    """
    _create(
        target,
        Kind.EXPORTER,
        name,
        labels=labels,
        save=save,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
        username=oidc_username,
        token_life=token_life,
    )


@create.command("admin", short_help="Create an admin.")
@click.argument("name", required=False)
@opt_save
@opt_out
@opt_labels()
@opt_token_life
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_all
@handle_exceptions
def create_admin(
    target: Target,
    name: str | None,
    save: bool,
    out: Path | None,
    labels: dict[str, str],
    token_life: timedelta | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: OutputType,
) -> None:
    """Create the admin NAME, who may do all that you may. Give the file of --out to the person."""
    _create(
        target,
        Kind.ADMIN,
        name,
        labels=labels,
        save=save,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
        token_life=token_life,
    )


@create.command("router", short_help="Create a router.")
@click.argument("name", required=False)
@opt_save
@opt_out
@opt_labels()
@click.option("--listen", metavar="HOST:PORT", default=None, help="Address that the router listens on.")
@click.option("--advertise", metavar="HOST:PORT", default=None, help="Where peers reach the router.")
@opt_token_life
@opt_insecure_tls
@opt_nointeractive
@opt_target
@opt_output_all
@handle_exceptions
def create_router(
    target: Target,
    name: str | None,
    save: bool,
    out: Path | None,
    labels: dict[str, str],
    listen: str | None,
    advertise: str | None,
    token_life: timedelta | None,
    insecure_tls: bool,
    nointeractive: bool,
    output: OutputType,
) -> None:
    """Create the account of a further router, and its config, for `jmp router run NAME` on another machine.

    Exporters with the same labels are served by it first.
    """
    _create(
        target,
        Kind.ROUTER,
        name,
        labels=labels,
        save=save,
        out=out,
        insecure_tls=insecure_tls,
        nointeractive=nointeractive,
        output=output,
        token_life=token_life,
        listen=listen,
        advertise=advertise,
    )


@create.command("policy", short_help="Create access policies from a file.")
@click.option("-f", "--file", "path", required=True, metavar="FILE", help="YAML file; `-` for the standard input.")
@opt_target
@opt_output_all
@handle_exceptions
def create_policy(target: Target, path: str, output: OutputType) -> None:
    """Create the access policies that a file describes; refused when one is there already."""
    from .apply import put_policies

    put_policies(target, path, output, create=True)
