"""`jmp auth`: state, refresh and rotation of the token of a client."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import anyio
import click
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.oidc import (
    DEFAULT_CLIENT_ID,
    TOKEN_EXPIRY_WARNING_SECONDS,
    Config,
    decode_jwt,
    format_duration,
    get_token_remaining_seconds,
)

SOON = 3600
"""Seconds; a token with less than this left is shown in yellow."""


@click.group("auth", cls=AliasedGroup)
def auth() -> None:
    """Look after the token of a client."""


def _claims(token: str) -> dict[str, Any]:
    try:
        return decode_jwt(token)
    except ValueError as error:
        raise ClickExceptionRed(
            f"The token in the config can't be read: {error}.", reason="invalid-data", hint="Log in with `jmp login`."
        ) from error


def _moment(seconds: Any) -> str:
    try:
        return datetime.fromtimestamp(float(seconds)).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"


@auth.command("status", short_help="Show the state of the token.")
@opt_config(exporter=False)
@click.option("-v", "--verbose", is_flag=True, help="Show when and how the token was obtained too.")
@handle_exceptions
def token_status(config: Any, verbose: bool) -> None:
    """Show whose the token is and how long it is valid."""
    if not config.token:
        click.echo(click.style("No token found in the config; log in with `jmp login`.", fg="yellow"))
        return
    claims = _claims(config.token)
    expiry = claims.get("exp")
    if isinstance(expiry, int | float):
        click.echo(f"Token expiry: {_moment(expiry)}")
    click.echo(f"Status: {_state(get_token_remaining_seconds(config.token))}")
    for title, claim in (("Subject", "sub"), ("Issuer", "iss")):
        if claims.get(claim):
            click.echo(f"{title}: {claims[claim]}")
    if verbose:
        for title, claim in (("Issued at", "iat"), ("Authenticated at", "auth_time")):
            if claims.get(claim) is not None:
                click.echo(f"{title}: {_moment(claims[claim])}")
        click.echo(f"Refresh token stored: {'yes' if config.refresh_token else 'no'}")


def _state(remaining: float | None) -> str:
    if remaining is None:
        return click.style("Valid (without an expiry)", fg="green")
    if remaining <= 0:
        return click.style(f"EXPIRED {format_duration(remaining)} ago", fg="red", bold=True)
    if remaining < TOKEN_EXPIRY_WARNING_SECONDS:
        return click.style(f"EXPIRING SOON (Valid for {format_duration(remaining)})", fg="red")
    color = "yellow" if remaining < SOON else "green"
    return click.style(f"Valid for {format_duration(remaining)}", fg=color)


@auth.command("refresh", short_help="Obtain a new token by the refresh token.")
@opt_config(exporter=False)
@handle_exceptions
def refresh_token(config: Any) -> None:
    """Obtain a new token from the login provider, by the stored refresh token."""
    if not config.token:
        raise ClickExceptionRed(
            "No token found in the config.", reason="unauthenticated", hint="Log in with `jmp login`."
        )
    if not config.refresh_token:
        raise ClickExceptionRed(
            "No refresh token found in the config.",
            reason="unauthenticated",
            hint="Log in with `jmp login --offline-access`.",
        )
    issuer = _claims(config.token).get("iss")
    if not issuer:
        raise ClickExceptionRed("The token doesn't say who issued it.", reason="invalid-data")
    oidc = Config(
        issuer=issuer, client_id=DEFAULT_CLIENT_ID, offline_access=True, insecure_tls=config.tls.insecure is True
    )
    tokens = anyio.run(oidc.refresh_token_grant, config.refresh_token)
    config.token = tokens["access_token"]
    if tokens.get("refresh_token"):
        config.refresh_token = tokens["refresh_token"]
    ClientConfigV1Alpha1.save(config, path=config.path)
    click.echo(f"Token refreshed. {_state(get_token_remaining_seconds(config.token))}")


@auth.command("rotate", short_help="Replace the token by a new one of the controller.")
@opt_config(exporter=False)
@handle_exceptions
def rotate_token(config: Any) -> None:
    """Have the controller replace the token of this client; the old one stops working."""
    if not config.token:
        raise ClickExceptionRed(
            "No token found in the config.", reason="unauthenticated", hint="Log in with `jmp login`."
        )
    remaining = get_token_remaining_seconds(config.token) if _claims(config.token) else None
    if remaining is not None and remaining <= 0:
        raise ClickExceptionRed(
            "The token has expired, so the controller won't rotate it.",
            reason="unauthenticated",
            hint="Log in with `jmp login`, or have an administrator rotate it.",
        )
    answer = config.rotate_token()
    config.token = answer.token
    ClientConfigV1Alpha1.save(config, path=config.path)
    click.echo(f"Token rotated. {_state(get_token_remaining_seconds(config.token))}")
