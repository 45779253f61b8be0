"""Obtains tokens from an OpenID Connect provider; its libraries are loaded when a token is asked for."""

from __future__ import annotations

import base64
import binascii
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import click

TOKEN_EXPIRY_WARNING_SECONDS = 300
"""A token with less than this left is about to expire."""

DEFAULT_CLIENT_ID = "jumpstarter-cli"
REQUEST_TIMEOUT = 30.0
"""Seconds that the provider may take to answer one request."""
CALLBACK_TIMEOUT = 600.0
"""Seconds that a person may take to log in with the browser."""

JMP_OIDC_CALLBACK_PORT = "JMP_OIDC_CALLBACK_PORT"
JMP_OIDC_DEVICE_FLOW = "JMP_OIDC_DEVICE_FLOW"

_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


def opt_oidc(f: Any) -> Any:
    """Add the options that choose provider and grant."""
    for option in (
        click.option(
            "--device-flow/--no-device-flow",
            "device_flow",
            default=None,
            help=f"Log in by a code that is entered on another device; default from ${JMP_OIDC_DEVICE_FLOW}.",
        ),
        click.option(
            "--offline-access/--no-offline-access",
            "offline_access",
            default=True,
            show_default=True,
            help="Ask for a refresh token, with which later logins need no browser.",
        ),
        click.option(
            "--callback-port",
            type=click.IntRange(0, 65535),
            default=None,
            envvar=JMP_OIDC_CALLBACK_PORT,
            help="Local port on which the browser returns; by default any free one.",
        ),
        click.option("--connector-id", default=None, help="Connector of the provider for a token exchange (Dex)."),
        click.option("--password", default=None, help="Password for --username; asked for when it is missing."),
        click.option("--username", default=None, help="Log in with a user name and password."),
        click.option("--token", default=None, help="Log in by exchanging this ID token."),
        click.option("--client-id", default=DEFAULT_CLIENT_ID, show_default=True, help="Client ID at the provider."),
        click.option("--issuer", default=None, help="URL of the OpenID Connect issuer."),
    ):
        f = option(f)
    return f


def should_use_device_flow(device_flow_flag: bool | None) -> bool:
    """Return the flag, or where it isn't given what the environment says."""
    if device_flow_flag is not None:
        return device_flow_flag
    return os.environ.get(JMP_OIDC_DEVICE_FLOW) == "1"


def use_system_certificates() -> None:
    """Verify TLS by the certificates of the system; on macOS only when JUMPSTARTER_FORCE_SYSTEM_CERTS is 1."""
    if platform.system() != "Darwin" or os.environ.get("JUMPSTARTER_FORCE_SYSTEM_CERTS") == "1":
        import truststore

        truststore.inject_into_ssl()


def _get_ssl_context() -> Any:
    """Return an SSL context that trusts `$SSL_CERT_FILE`, else the system."""
    import ssl

    if path := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=path)
    use_system_certificates()
    return ssl.create_default_context()


@dataclass(kw_only=True)
class Config:
    """A provider, and us as its public client."""

    issuer: str
    client_id: str
    offline_access: bool = False
    """Ask for a refresh token."""
    insecure_tls: bool = False
    """Don't verify the provider's certificate."""

    scope: ClassVar[list[str]] = ["openid", "profile"]

    def _scopes(self) -> list[str]:
        return [*self.scope, "offline_access"] if self.offline_access else list(self.scope)

    async def configuration(self) -> dict[str, Any]:
        """Return the provider's description of itself.

        Raises:
            click.ClickException: it can't be had; the message says why.
        """
        import aiohttp

        url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=False if self.insecure_tls else _get_ssl_context()) as response,
            ):
                response.raise_for_status()
                return dict(await response.json(content_type=None))
        except TimeoutError:
            raise click.ClickException(f"Timed out while connecting to the login provider at {url}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise click.ClickException(certificate_text(url, error)) from error
        except aiohttp.ClientError as error:
            text = f"The login provider at {url} can't be used: {connection_text(error)}"
            raise click.ClickException(text) from error
        except ValueError as error:
            raise click.ClickException(f"Invalid JSON response received from {url}") from error

    def client(self, **kwargs: Any) -> Any:
        """Return an authlib `OAuth2Session` for us at this provider."""
        from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]

        use_system_certificates()
        session = OAuth2Session(client_id=self.client_id, scope=" ".join(self._scopes()), **kwargs)
        if self.insecure_tls:
            import urllib3

            # The user asked for it and was warned; a line per request adds nothing.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            session.verify = False
        elif path := os.environ.get("SSL_CERT_FILE"):
            session.verify = path
        return session

    async def _fetch(self, **kwargs: Any) -> dict[str, Any]:
        """Ask for a token; authlib adds the client ID to the form, and providers refuse one that is there twice."""
        configuration = await self.configuration()
        return await _in_thread(lambda: _fetch_token(self.client(), configuration["token_endpoint"], **kwargs))

    async def token_exchange_grant(self, token: str, **kwargs: Any) -> dict[str, Any]:
        """Exchange an ID token for an access token; `kwargs` are further form fields."""
        return await self._fetch(
            grant_type=_TOKEN_EXCHANGE,
            requested_token_type=_ACCESS_TOKEN,
            subject_token_type=_ID_TOKEN,
            subject_token=token,
            scope=" ".join(self._scopes()),
            **{name: value for name, value in kwargs.items() if value is not None},
        )

    async def password_grant(self, username: str, password: str) -> dict[str, Any]:
        """Log in with a user name and password."""
        return await self._fetch(
            grant_type="password",
            username=username,
            password=password,
            scope=" ".join(self._scopes()),
        )

    async def refresh_token_grant(self, refresh_token: str) -> dict[str, Any]:
        """Exchange a refresh token for an access token, and maybe a new refresh token."""
        return await self._fetch(grant_type="refresh_token", refresh_token=refresh_token)

    async def authorization_code_grant(
        self, callback_port: int | None = None, prompt: str | None = None
    ) -> dict[str, Any]:
        """Log in with a browser, which returns to a local port.

        Args:
            callback_port: the port; None or 0 for any free one.
            prompt: value of the OpenID parameter `prompt`, such as `login`.
        """
        import anyio
        from aiohttp import web
        from authlib.common.security import generate_token  # type: ignore[import-untyped]

        configuration = await self.configuration()
        verifier = generate_token(64)
        answers: list[str] = []
        answered = anyio.Event()

        async def callback(request: web.Request) -> web.Response:
            if not answers:
                answers.append(str(request.url))
                answered.set()
            return web.Response(text="You are done here: close this page and go back to the terminal.")

        app = web.Application()
        app.router.add_get("/callback", callback)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "localhost", callback_port or 0)
            await site.start()
            port = runner.addresses[0][1]
            session = self.client(redirect_uri=f"http://localhost:{port}/callback", code_challenge_method="S256")
            extra = {"prompt": prompt} if prompt else {}
            url, state = session.create_authorization_url(
                configuration["authorization_endpoint"], code_verifier=verifier, **extra
            )
            click.echo(f"Please open this address in a browser to log in: {url}")
            try:
                with anyio.fail_after(CALLBACK_TIMEOUT):
                    await answered.wait()
            except TimeoutError:
                raise click.ClickException(f"Nobody logged in within {CALLBACK_TIMEOUT / 60:.0f} minutes") from None
        finally:
            await runner.cleanup()
        _check_answer(answers[0], state)
        return await _in_thread(
            lambda: _fetch_token(
                session,
                configuration["token_endpoint"],
                authorization_response=answers[0],
                state=state,
                code_verifier=verifier,
            )
        )

    async def device_authorization_grant(self) -> dict[str, Any]:
        """Log in by a code that is entered on another device (RFC 8628)."""
        configuration = await self.configuration()
        endpoint = configuration.get("device_authorization_endpoint")
        if not endpoint:
            raise click.ClickException(
                f"The login provider {self.issuer} does not support Device Authorization Grant: it announces no "
                "device_authorization_endpoint"
            )
        device = await self._post(endpoint, {"client_id": self.client_id, "scope": " ".join(self._scopes())})
        if complete := device.get("verification_uri_complete"):
            click.echo(f"Please open this address in a browser to log in: {complete}")
        else:
            click.echo(f"Please open {device['verification_uri']} and enter the code {device['user_code']}")
        return await self._poll_device(configuration["token_endpoint"], device)

    async def _poll_device(self, endpoint: str, device: dict[str, Any]) -> dict[str, Any]:
        import anyio

        interval = float(device.get("interval", 5))
        deadline = time.monotonic() + float(device.get("expires_in", 600))
        fields = {"grant_type": _DEVICE_CODE, "device_code": device["device_code"], "client_id": self.client_id}
        while time.monotonic() < deadline:
            await anyio.sleep(interval)
            answer = await self._post(endpoint, fields)
            match answer.get("error"):
                case None:
                    return answer
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval += 5
                case "access_denied":
                    raise click.ClickException("The login was denied by the user")
                case "expired_token":
                    break
                case error:
                    raise click.ClickException(f"Login failed: {answer.get('error_description') or error}")
        raise click.ClickException("The code has expired; start the login again")

    async def _post(self, url: str, fields: dict[str, str]) -> dict[str, Any]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=fields, ssl=False if self.insecure_tls else _get_ssl_context()) as response,
            ):
                return dict(await response.json(content_type=None))
        except TimeoutError:
            raise click.ClickException(f"Timed out while connecting to the login provider at {url}") from None
        except (aiohttp.ClientError, ValueError) as error:
            text = f"The login provider at {url} can't be used: {connection_text(error)}"
            raise click.ClickException(text) from error


def _fetch_token(session: Any, endpoint: str, **kwargs: Any) -> dict[str, Any]:
    # What the session verifies by is said with the request too, or requests would let the environment decide.
    return dict(session.fetch_token(endpoint, timeout=REQUEST_TIMEOUT, verify=session.verify, **kwargs))


def _check_answer(url: str, state: str) -> None:
    """Look at the address by which a browser came back.

    Raises:
        click.ClickException: it belongs to another login, or the provider or the person has refused.
    """
    from urllib.parse import parse_qs, urlsplit

    answer = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    if answer.get("state") != state:
        raise click.ClickException("Login failed: the browser came back from another login; start this one again")
    if error := answer.get("error"):
        raise click.ClickException(f"Login failed: {answer.get('error_description') or error}")
    if "code" not in answer:
        raise click.ClickException("Login failed: the login provider sent the browser back without a code")


def certificate_text(url: str, error: Any) -> str:
    """Return what is wrong with the certificate of a server, and what can be done."""
    cause = getattr(error, "certificate_error", error)
    return (
        f"TLS certificate validation failed for {url}: {getattr(cause, 'verify_message', '') or cause}. Set "
        "SSL_CERT_FILE to the file of its certificate authority. Use --insecure-tls if that is really acceptable."
    )


def connection_text(error: Any) -> str:
    """Return why an HTTP request of aiohttp failed, in words of the system where it has some."""
    cause = getattr(error, "os_error", None)
    if cause is None:
        return str(error)
    return os.strerror(cause.errno) if (cause.errno or 0) > 0 else cause.strerror or str(cause)


async def _in_thread(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a blocking request of authlib in a worker thread; what the provider refuses becomes a message."""
    from anyio import to_thread
    from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
    from requests.exceptions import RequestException, SSLError, Timeout

    try:
        return await to_thread.run_sync(function, abandon_on_cancel=True)
    except AuthlibBaseError as error:
        raise click.ClickException(f"Login failed: {error.description or error.error or error}") from error
    except SSLError as error:
        raise click.ClickException(f"TLS certificate validation failed: {error}") from error
    except Timeout:
        raise click.ClickException("Timed out while connecting to the login provider") from None
    except RequestException as error:
        raise click.ClickException(f"The login provider can't be reached: {error}") from error


# --- tokens ----------------------------------------------------------------------------------------------------------


def decode_jwt(token: str) -> dict[str, Any]:
    """Return the claims of a token, without verifying its signature.

    Raises:
        ValueError: it is no JSON Web Token.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, AttributeError, binascii.Error, ValueError) as error:
        raise ValueError("the token is not a JSON Web Token") from error
    if not isinstance(claims, dict):
        raise ValueError("the token is not a JSON Web Token: its claims are no object")
    return claims


def decode_jwt_issuer(token: str) -> str | None:
    """Return who issued a token.

    Raises:
        ValueError: it is no JSON Web Token.
    """
    return decode_jwt(token).get("iss")


def get_token_expiry(token: str) -> int | None:
    """Return when a token expires, in seconds since 1970; None if it doesn't say."""
    expiry = decode_jwt(token).get("exp")
    return int(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None


def get_token_remaining_seconds(token: str) -> float | None:
    """Return for how long a token is still valid, negative when it has expired; None if it doesn't say."""
    expiry = get_token_expiry(token)
    return None if expiry is None else expiry - time.time()


def format_duration(seconds: float) -> str:
    """Return a duration as text such as `2h 5m`, `5m 10s` or `7s`; the sign is dropped."""
    total = int(abs(seconds))
    hours, minutes, rest = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
