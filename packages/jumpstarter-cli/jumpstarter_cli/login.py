"""`jmp login`: obtains a token from the login provider of a controller, and keeps it in a config."""

from __future__ import annotations

import base64
import binascii
import sys
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import anyio
import click
from jumpstarter.common.exceptions import ReauthenticationFailed
from jumpstarter.config.client import ClientConfigV1Alpha1, ClientConfigV1Alpha1Drivers
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1
from jumpstarter_cli_common.config import opt_config
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.oidc import (
    Config,
    _get_ssl_context,
    certificate_text,
    connection_text,
    decode_jwt_issuer,
    opt_oidc,
    should_use_device_flow,
)
from jumpstarter_cli_common.opt import confirm_insecure_tls, opt_insecure_tls, opt_nointeractive

from .prompts import ask, split_allow

DISCOVERY_PATH = "/v1/auth/config"
DISCOVERY_TIMEOUT = 30.0
"""Seconds that a login endpoint may take to describe itself."""

DEFAULT_ALIAS = "default"


def __getattr__(name: str) -> Any:
    # Every command that may have to log in again imports this module; few of them ever speak HTTP.
    if name == "aiohttp":
        return import_module("aiohttp")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- the login target ------------------------------------------------------------------------------------------------


def parse_login_argument(login_arg: str) -> tuple[str | None, str]:
    """Return client name, or None, and host of `[client-name@]host`.

    Raises:
        click.ClickException: a part is empty.
    """
    text = login_arg.strip()
    if not text:
        raise click.ClickException("Login target cannot be empty")
    if "@" not in text:
        return None, text
    name, _, endpoint = (part.strip() for part in text.rpartition("@"))
    if not name:
        raise click.ClickException("Client name before '@' cannot be empty")
    if not endpoint:
        raise click.ClickException("Login endpoint after '@' cannot be empty")
    return name, endpoint


def _validate_login_endpoint_url(url: str, *, allow_http: bool = False) -> None:
    """Raise click.ClickException unless `url` is an HTTPS URL with a host, or an HTTP one where that is allowed."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise click.ClickException(f"Invalid login endpoint '{url}': {error}") from None
    if parts.scheme not in ("https", "http"):
        raise click.ClickException(f"Invalid login endpoint '{url}': unsupported URL scheme '{parts.scheme}'")
    if not host:
        raise click.ClickException(f"Invalid login endpoint '{url}': missing host")
    if parts.scheme == "http" and not allow_http:
        raise click.UsageError(
            f"The login endpoint '{url}' is not encrypted. Use --insecure-tls if that is really acceptable."
        )


def _validate_auth_config_payload(payload: Any, source_url: str) -> dict[str, Any]:
    """Return what a login endpoint says of itself.

    Raises:
        click.ClickException: it is not of the form that this client understands.
    """
    if not isinstance(payload, dict):
        raise click.ClickException(f"Unexpected answer from {source_url}: not a JSON object")
    if not isinstance(payload.get("grpcEndpoint"), str) or not payload["grpcEndpoint"]:
        raise click.ClickException(f"Unexpected answer from {source_url}: missing required field 'grpcEndpoint'")
    providers = payload.get("oidc")
    if providers is not None and not (isinstance(providers, list) and all(isinstance(p, dict) for p in providers)):
        raise click.ClickException(f"Unexpected answer from {source_url}: 'oidc' is not a list of objects")
    if ca := payload.get("caBundle"):
        try:
            base64.b64decode(ca, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise click.ClickException(f"Unexpected answer from {source_url}: 'caBundle' is not base64") from None
    return payload


async def fetch_auth_config(login_endpoint: str, insecure_tls: bool = False) -> dict[str, Any]:
    """Ask a login endpoint where controller and login provider are.

    Raises:
        click.ClickException: it can't be asked, or gives no useful answer.
    """
    import aiohttp

    base = login_endpoint if "://" in login_endpoint else f"https://{login_endpoint}"
    _validate_login_endpoint_url(base, allow_http=insecure_tls)
    url = base.rstrip("/") + DISCOVERY_PATH
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DISCOVERY_TIMEOUT)) as session,
            session.get(url, ssl=False if insecure_tls else _get_ssl_context()) as response,
        ):
            response.raise_for_status()
            payload = await response.json(content_type=None)
    except TimeoutError:
        raise click.ClickException(f"Timed out while connecting to {url}") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise click.ClickException(certificate_text(url, error)) from error
    except aiohttp.ClientError as error:
        raise click.ClickException(f"The login endpoint {url} can't be used: {connection_text(error)}") from error
    except ValueError as error:
        raise click.ClickException(f"Invalid JSON response received from {url}") from error
    return _validate_auth_config_payload(payload, url)


# --- the command -----------------------------------------------------------------------------------------------------


def _warn_exporter_client_only_flags(config_kind: str, allow: str | None, unsafe: bool | None) -> None:
    """Say which options have no meaning for an exporter config."""
    if not config_kind.startswith("exporter"):
        return
    if allow:
        click.echo("Warning: --allow is for client configs and is ignored for an exporter.")
    if unsafe:
        click.echo("Warning: --unsafe is for client configs and is ignored for an exporter.")


@click.command("login", short_help="Log in and keep the token in a config.")
@opt_config(allow_missing=True)
@click.argument("login_target", required=False, metavar="[[CLIENT@]HOST]")
@click.option("-e", "--endpoint", default=None, help="Controller as host:port, for a new config.")
@click.option("--namespace", default=None, help="Namespace at the controller, for a new config.")
@click.option("--name", default=None, help="Name at the controller, for a new config.")
@opt_oidc
@click.option("--allow", default="", help="Client classes that may be imported: comma-separated globs.")
@click.option("--unsafe/--no-unsafe", default=None, help="Import any client class that an exporter names.")
@opt_insecure_tls
@opt_nointeractive
@handle_exceptions
def login(
    config: Any,
    login_target: str | None,
    endpoint: str | None,
    namespace: str | None,
    name: str | None,
    issuer: str | None,
    client_id: str,
    token: str | None,
    username: str | None,
    password: str | None,
    connector_id: str | None,
    callback_port: int | None,
    offline_access: bool,
    device_flow: bool | None,
    allow: str,
    unsafe: bool | None,
    insecure_tls: bool,
    nointeractive: bool,
) -> None:
    """Log in to a controller.

    HOST is the login endpoint of an installation, which tells the rest. An existing config gets a new token; otherwise
    a new one is made, and what is not given is asked for.
    """
    confirm_insecure_tls(insecure_tls, nointeractive)
    found: dict[str, Any] = {}
    if login_target is not None:
        target_name, target_endpoint = parse_login_argument(login_target)
        found = anyio.run(fetch_auth_config, target_endpoint, insecure_tls)
        name = name or target_name
        if isinstance(config, tuple) or target_name:
            config = _named_target(config, target_name)
    provider = (found.get("oidc") or [{}])[0]
    issuer = issuer or provider.get("issuer")
    if client_id == "jumpstarter-cli" and provider.get("clientId"):
        client_id = provider["clientId"]

    kind = config[0] if isinstance(config, tuple) else ("exporter" if _is_exporter(config) else "client")
    _warn_exporter_client_only_flags(kind, allow, unsafe)
    if isinstance(config, tuple):
        config = _new_config(
            *config,
            endpoint=endpoint or found.get("grpcEndpoint"),
            namespace=namespace or found.get("namespace"),
            name=name,
            allow=allow,
            unsafe=unsafe,
            nointeractive=nointeractive,
        )
    elif endpoint or found:
        config.endpoint = endpoint or found.get("grpcEndpoint") or config.endpoint
    if found.get("caBundle"):
        config.tls.ca = found["caBundle"]
    if insecure_tls:
        config.tls.insecure = True

    issuer = issuer or _issuer_of(config)
    issuer = ask(issuer, "--issuer", "URL of the login provider (OpenID Connect issuer)", nointeractive=nointeractive)
    client = kind.startswith("client")
    oidc = Config(
        issuer=issuer,
        client_id=client_id,
        offline_access=offline_access and client,
        insecure_tls=insecure_tls,
    )
    if username and password is None:
        password = ask(None, "--password", "Password", nointeractive=nointeractive, hidden=True)
    tokens = anyio.run(
        _obtain, oidc, config, token, connector_id, username, password, callback_port, device_flow, nointeractive
    )
    _keep(config, tokens, client=client)


def _is_exporter(config: Any) -> bool:
    return getattr(config, "kind", None) == "ExporterConfig"


def _named_target(config: Any, name: str | None) -> Any:
    """Return the client config called as the login target says, or the request for a new one."""
    if name is None or (isinstance(config, tuple) and config != ("client", DEFAULT_ALIAS)):
        return config
    return ClientConfigV1Alpha1.load(name) if ClientConfigV1Alpha1.exists(name) else ("client", name)


def _new_config(
    kind: str,
    value: str,
    *,
    endpoint: str | None,
    namespace: str | None,
    name: str | None,
    allow: str,
    unsafe: bool | None,
    nointeractive: bool,
) -> Any:
    """Make the config that the command line names but that doesn't exist yet."""
    by_path = kind.endswith("_config")
    if kind.startswith("client") and nointeractive and not allow and unsafe is None:
        raise click.UsageError("One of --allow and --unsafe is needed for a new client with --nointeractive.")
    common: dict[str, Any] = {
        "alias": DEFAULT_ALIAS if by_path else value,
        "metadata": ObjectMeta(
            namespace=ask(namespace, "--namespace", "Namespace", nointeractive=nointeractive),
            name=ask(name, "--name", "Name", nointeractive=nointeractive),
        ),
        "endpoint": ask(endpoint, "--endpoint", "Controller (host:port)", nointeractive=nointeractive),
        "tls": TLSConfigV1Alpha1(),
        "path": value if by_path else None,
    }
    if kind.startswith("exporter"):
        return ExporterConfigV1Alpha1(**common)
    if unsafe is None and not allow:
        unsafe = click.confirm("Import any client class that an exporter names (unsafe)?", default=False, err=True)
        if not unsafe:
            allow = ask(None, "--allow", "Allowed client classes (comma-separated)", nointeractive=False, default="")
    return ClientConfigV1Alpha1(
        **common, drivers=ClientConfigV1Alpha1Drivers(allow=split_allow(allow), unsafe=bool(unsafe))
    )


def _issuer_of(config: Any) -> str | None:
    if not config.token:
        return None
    try:
        return decode_jwt_issuer(config.token)
    except ValueError:
        return None


async def _obtain(
    oidc: Config,
    config: Any,
    token: str | None,
    connector_id: str | None,
    username: str | None,
    password: str | None,
    callback_port: int | None,
    device_flow: bool | None,
    nointeractive: bool,
) -> dict[str, Any]:
    """Run the grant that the options ask for."""
    if token is not None:
        return await oidc.token_exchange_grant(token, connector_id=connector_id)
    if username is not None and password is not None:
        return await oidc.password_grant(username, password)
    refresh_token = getattr(config, "refresh_token", None)
    if refresh_token:
        try:
            return await oidc.refresh_token_grant(refresh_token)
        except click.ClickException as error:
            if nointeractive:
                raise
            click.echo(f"The stored refresh token can't be used ({error.message}); logging in anew.", err=True)
    if nointeractive:
        raise click.UsageError(
            "With --nointeractive, log in by --token or by --username and --password, or with a stored refresh token."
        )
    if should_use_device_flow(device_flow):
        return await oidc.device_authorization_grant()
    return await oidc.authorization_code_grant(callback_port=callback_port)


def _keep(config: Any, tokens: dict[str, Any], *, client: bool) -> None:
    """Save the tokens, and make a client the current one."""
    config.token = tokens["access_token"]
    if not client:
        path = ExporterConfigV1Alpha1.save(config, config.path)
        click.echo(f"Logged in; the token is in {path}.")
        return
    if tokens.get("refresh_token"):
        config.refresh_token = tokens["refresh_token"]
    path = ClientConfigV1Alpha1.save(config, config.path)
    text = f"Logged in as '{config.metadata.name}'; the token is in {path}."
    if ClientConfigV1Alpha1.exists(config.alias) and path == ClientConfigV1Alpha1._get_path(config.alias):
        UserConfigV1Alpha1.load_or_create().use_client(config.alias)
        text += f" '{config.alias}' is now the current client."
    click.echo(text)


def relogin_client(config: Any) -> None:
    """Obtain a new token for a client whose token has expired: by its refresh token, else in the browser.

    Raises:
        ReauthenticationFailed: neither was possible; the message says why.
    """
    try:
        issuer = decode_jwt_issuer(config.token)
        if not issuer:
            raise ReauthenticationFailed("the token doesn't say who issued it")
        oidc = Config(
            issuer=issuer, client_id="jumpstarter-cli", offline_access=True, insecure_tls=config.tls.insecure is True
        )
        tokens = anyio.run(_renew, oidc, config.refresh_token)
        config.token = tokens["access_token"]
        config.refresh_token = tokens.get("refresh_token") or config.refresh_token
        ClientConfigV1Alpha1.save(config, config.path)
    except ReauthenticationFailed:
        raise
    except click.ClickException as error:
        raise ReauthenticationFailed(f"Logging in again failed: {error.message}") from None
    except (ValueError, AttributeError, KeyError, OSError) as error:
        raise ReauthenticationFailed("Logging in again failed") from error


async def _renew(oidc: Config, refresh_token: str | None) -> dict[str, Any]:
    if refresh_token:
        try:
            return await oidc.refresh_token_grant(refresh_token)
        except click.ClickException as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"The stored refresh token can't be used ({error.message}); logging in anew.", err=True)
    if not sys.stdin.isatty():
        raise click.ClickException("there is no refresh token, and nobody at a terminal to log in with a browser")
    return await oidc.authorization_code_grant(prompt="login")
