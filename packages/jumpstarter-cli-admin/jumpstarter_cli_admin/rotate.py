"""`jmp admin rotate`: replaces the tokens of accounts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import NameOutputType, opt_output_name_only, validate_name

from .create import opt_save, opt_token_life
from .records import Kind
from .saving import Wanted, opt_out, save_and_tell
from .target import Target, opt_target

__all__ = ["ClientConfigV1Alpha1", "rotate"]

opt_now = click.option("--revoke-now", is_flag=True, help="Refuse the former token at once, not after some minutes.")


@click.group("rotate", cls=AliasedGroup)
def rotate() -> None:
    """Replace the tokens of accounts."""


def rotate_account(
    target: Target,
    kind: Kind,
    name: str | None,
    *,
    save: bool,
    out: Path | None,
    token_life: timedelta | None,
    revoke_now: bool,
    output: NameOutputType,
) -> None:
    """Replace the token of an account, and write the new one into its config if wanted."""
    name = validate_name(name)
    wanted = Wanted(kind=kind, alias=name, out=out) if save or out is not None else None
    if wanted is not None:
        wanted.check()
    if output is None:
        click.echo(f"Rotating token of {kind} '{name}' in namespace '{target.namespace}'", err=True)
    credentials = target.run(
        lambda backend: backend.rotate_account(
            kind, target.namespace, name, token_life=token_life, revoke_now=revoke_now
        )
    )
    path = save_and_tell(wanted, credentials, quiet=True) if wanted is not None else None
    if output is not None:
        click.echo(f"{kind}.jumpstarter.dev/{name}")
        return
    until = f", valid until {credentials.expires.astimezone():%Y-%m-%d %H:%M}" if credentials.expires else ""
    click.echo(f"Token rotated for {kind} '{name}'{until}")
    if path is not None:
        click.echo(f"{kind.title} configuration {path} updated with new token")
    else:
        click.echo(
            f"It was not saved; a config with a further one is written by: jmp admin import {kind} {name}", err=True
        )


def _add(kind: Kind) -> None:
    article = "an" if kind.value[0] in "ae" else "a"

    @rotate.command(kind.value, short_help=f"Replace the token of {article} {kind}.")
    @click.argument("name", required=False)
    @opt_save
    @opt_out
    @opt_token_life
    @opt_now
    @opt_target
    @opt_output_name_only
    @handle_exceptions
    def command(target: Target, name: str | None, **options: Any) -> None:
        rotate_account(target, kind, name, **options)

    command.help = (
        f"Replace the token of the {kind} NAME. The former one is accepted for some minutes more.\n\nWith --save or "
        "--out, the new token is written into a config, whose other members stay."
    )


for _kind in Kind:
    _add(_kind)

rotate_client = rotate.commands["client"]
