"""Tokens that expire before or while `jmp shell` runs: checked, replaced in time, and warned of.

What tests replace is looked up in `jumpstarter_cli.shell`, which is where they replace it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter_cli_common.oidc import TOKEN_EXPIRY_WARNING_SECONDS, format_duration

from . import shell

logger = logging.getLogger(__name__)

TOKEN_REFRESH_SECONDS = 120
"""A token with less than this left is replaced."""
TOKEN_LOOK_INTERVAL, TOKEN_RETRY_INTERVAL = 30, 5
"""Seconds between two looks at the token, and between two attempts to replace it."""


def check_token(config: Any) -> None:
    """Refuse a token that has expired, before anything is leased.

    Raises:
        ConnectionError: it has; the config is attached.
    """
    token = getattr(config, "token", None)
    if not token:
        return
    try:
        remaining = shell.get_token_remaining_seconds(token)
    except ValueError:
        # Not a JWT: only the controller can tell whether it is good.
        return
    if remaining is not None and remaining <= 0:
        error = ConnectionError("token is expired")
        error.set_config(config)
        raise error


async def _monitor_token_expiry(
    config: Any, lease: Any, cancel_scope: anyio.CancelScope | None, token_state: dict[str, Any] | None = None
) -> None:
    """Replace the token before it expires, for as long as the shell runs; warn when that fails, never end the shell."""
    state = {} if token_state is None else token_state
    warned: set[str] = set()
    try:
        while not (cancel_scope is not None and cancel_scope.cancel_called is True):
            if not config.token:
                return
            remaining = shell.get_token_remaining_seconds(config.token)
            if remaining is None:
                return
            if remaining > TOKEN_REFRESH_SECONDS:
                if remaining <= TOKEN_EXPIRY_WARNING_SECONDS and "soon" not in warned:
                    warned.add("soon")
                    text = f"Token expires in {format_duration(remaining)}; auto-refresh will be tried."
                    shell.click.echo(shell.click.style(text, fg="yellow"), err=True)
                await anyio.sleep(TOKEN_LOOK_INTERVAL)
                continue
            message = await shell._attempt_token_recovery(config, lease)
            if message is not None:
                state.pop("expired_unrecovered", None)
                warned.clear()
                shell.click.echo(shell.click.style(message, fg="green"), err=True)
            else:
                stage = "failed" if remaining > 0 else "expired"
                if stage not in warned:
                    warned.add(stage)
                    shell._warn_refresh_failed(remaining)
                if remaining <= 0:
                    state["expired_unrecovered"] = True
            await anyio.sleep(TOKEN_RETRY_INTERVAL)
    except Exception as error:  # noqa: BLE001 - a shell that works must not end because its token can't be watched
        logger.debug("the token is not watched any more: %s", error)


async def _attempt_token_recovery(config: Any, lease: Any) -> str | None:
    """Get a new token in one of the ways there are; return what to tell the user, or None."""
    if await shell._try_refresh_token(config, lease):
        return "Token refreshed automatically."
    if await shell._try_reload_token_from_disk(config, lease):
        return "Token reloaded from login."
    return None


async def _try_refresh_token(config: Any, lease: Any) -> bool:
    """Replace the token by means of the refresh token; return whether that worked."""
    if not config.refresh_token:
        return False
    try:
        async with _tokens_restored(config):
            issuer = shell.decode_jwt_issuer(config.token)
            oidc = shell.Config(issuer=issuer or "", client_id="jumpstarter-cli", offline_access=True)
            tokens = await oidc.refresh_token_grant(config.refresh_token)
            config.token = tokens["access_token"]
            if tokens.get("refresh_token"):
                config.refresh_token = tokens["refresh_token"]
            await shell._update_lease_channel(config, lease)
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller has other ways to get a token
        logger.debug("the token could not be refreshed: %s", error)
        return False
    try:
        shell.ClientConfigV1Alpha1.save(config, path=config.path)
    except Exception as error:  # noqa: BLE001 - the new token works, it is only not kept
        logger.warning("the new token could not be saved: %s", error)
    return True


async def _try_reload_token_from_disk(config: Any, lease: Any) -> bool:
    """Take over a token that a login in another terminal has put into the config file; return whether there was one."""
    if not config.path:
        return False
    try:
        async with _tokens_restored(config):
            stored = shell.ClientConfigV1Alpha1.from_file(config.path)
            if not stored.token or stored.token == config.token:
                return False
            remaining = shell.get_token_remaining_seconds(stored.token)
            if remaining is None or remaining <= 0:
                return False
            config.token, config.refresh_token = stored.token, stored.refresh_token
            await shell._update_lease_channel(config, lease)
    except Exception as error:  # noqa: BLE001 - whatever it was, there is no usable token in the file now
        logger.debug("no token could be taken from the config file: %s", error)
        return False
    return True


@asynccontextmanager
async def _tokens_restored(config: Any) -> AsyncGenerator[None, None]:
    """Give the config its tokens back when the body fails."""
    before = config.token, config.refresh_token
    try:
        yield
    except BaseException:
        config.token, config.refresh_token = before
        raise


async def _update_lease_channel(config: Any, lease: Any) -> None:
    """Have a lease use the present token of the config."""
    if lease is not None:
        lease.refresh_channel(await config.channel())


def _warn_refresh_failed(remaining: float) -> None:
    """Say that the token could not be replaced."""
    if remaining > 0:
        text = f"Token expires in {format_duration(remaining)} and could not be refreshed; run `jmp login` elsewhere."
        color = "yellow"
    else:
        text = "Token has expired and could not be refreshed; run `jmp login` elsewhere."
        color = "red"
    shell.click.echo(shell.click.style(text, fg=color), err=True)


def _warn_about_expired_token(lease_name: str, selector: str | None) -> None:
    """Say what an expired token leaves behind: a lease that could not be released."""
    again = f"jmp shell --lease {lease_name}" + (f" --selector {selector}" if selector else "")
    shell.warn(
        f"your token has expired, so lease {lease_name} may not have been released. Log in with `jmp login`, then use "
        f"it with `{again}` or release it with `jmp delete lease {lease_name}`."
    )
