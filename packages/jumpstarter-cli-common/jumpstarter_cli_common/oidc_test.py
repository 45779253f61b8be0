"""Tokens from a login provider: a real HTTP server that checks what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import click
import pytest

from .oidc import (
    Config,
    decode_jwt,
    decode_jwt_issuer,
    format_duration,
    get_token_expiry,
    get_token_remaining_seconds,
    should_use_device_flow,
)


def make_jwt(**claims: Any) -> str:
    """Return a token with these claims and a signature that nobody checks."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'ES256'})}.{part(claims)}.c2ln"


class Provider:
    """A login provider on a local port."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        """Form fields of the requests for tokens."""
        self.pending = 0
        """How often a device is told to wait."""
        self.device_error: str | None = None
        self.answers: dict[str, tuple[int, bytes]] = {}
        """Paths whose answer is replaced: status and body."""
        self.challenge = ""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.get(self)

            def do_POST(self) -> None:
                provider.post(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Provider:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join(10)
        self.server.server_close()

    def token(self, **claims: Any) -> str:
        return make_jwt(**({"iss": self.issuer, "sub": "alice", "exp": int(time.time()) + 600} | claims))

    @staticmethod
    def reply(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        if url.path in self.answers:
            self.reply(handler, *self.answers[url.path])
        elif url.path == "/.well-known/openid-configuration":
            body = {name: f"{self.issuer}/{path}" for name, path in self.endpoints().items()}
            self.reply(handler, 200, {"issuer": self.issuer, **body})
        elif url.path == "/auth":
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            self.challenge = query["code_challenge"]
            handler.send_response(302)
            answer = urlencode({"code": "the-code", "state": query["state"]})
            handler.send_header("Location", f"{query['redirect_uri']}?{answer}")
            handler.end_headers()
        else:
            self.reply(handler, 404, {})

    @staticmethod
    def endpoints() -> dict[str, str]:
        return {
            "token_endpoint": "token",
            "authorization_endpoint": "auth",
            "device_authorization_endpoint": "device",
        }

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        text = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        fields = parse_qs(text)
        if any(len(values) > 1 for values in fields.values()):
            self.reply(handler, 400, {"error": "invalid_request", "error_description": f"repeated fields: {text}"})
            return
        form = {key: values[0] for key, values in fields.items()}
        if handler.path == "/device":
            uri = f"{self.issuer}/enter"
            device = {"device_code": "dc", "user_code": "AB-CD", "verification_uri": uri, "interval": 0}
            self.reply(handler, 200, device)
            return
        self.requests.append(form)
        self.reply(handler, *self.grant(form))

    def grant(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        refused = (400, {"error": "invalid_grant", "error_description": "wrong credentials"})
        match form["grant_type"]:
            case "password" if form["password"] != "right":
                return refused
            case "refresh_token" if form["refresh_token"] != "good-refresh":
                return refused
            case "authorization_code":
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != self.challenge:
                    return refused
            case "urn:ietf:params:oauth:grant-type:device_code":
                if self.device_error:
                    return 400, {"error": self.device_error}
                if self.pending:
                    self.pending -= 1
                    return 400, {"error": "authorization_pending"}
        return 200, {"access_token": self.token(), "refresh_token": "good-refresh", "token_type": "Bearer"}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def config(provider: Provider, **options: Any) -> Config:
    return Config(issuer=provider.issuer, client_id="jumpstarter-cli", **options)


async def test_the_password_grant_sends_user_and_password(provider: Provider) -> None:
    tokens = await config(provider).password_grant("alice", "right")
    assert decode_jwt_issuer(tokens["access_token"]) == provider.issuer
    (form,) = provider.requests
    assert form == {
        "grant_type": "password",
        "username": "alice",
        "password": "right",
        "scope": "openid profile",
        "client_id": "jumpstarter-cli",
    }


async def test_a_refused_grant_says_what_the_provider_says(provider: Provider) -> None:
    with pytest.raises(click.ClickException, match="Login failed: wrong credentials"):
        await config(provider).password_grant("alice", "wrong")


async def test_the_token_exchange_sends_the_id_token(provider: Provider) -> None:
    await config(provider).token_exchange_grant("the-id-token", connector_id="kubernetes")
    (form,) = provider.requests
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": "the-id-token",
        "connector_id": "kubernetes",
        "scope": "openid profile",
        "client_id": "jumpstarter-cli",
    }


async def test_offline_access_is_asked_for_by_a_scope(provider: Provider) -> None:
    await config(provider, offline_access=True).password_grant("alice", "right")
    assert provider.requests[0]["scope"] == "openid profile offline_access"
    assert Config.scope == ["openid", "profile"]


async def test_the_refresh_grant(provider: Provider) -> None:
    tokens = await config(provider).refresh_token_grant("good-refresh")
    assert tokens["refresh_token"] == "good-refresh"


async def test_the_browser_login_checks_code_and_state(provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    tokens: list[dict[str, Any]] = []

    async def log_in() -> None:
        tokens.append(await config(provider).authorization_code_grant())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log_in)
            url = await printed_url(capsys)
            body = await anyio.to_thread.run_sync(browse, url)
    assert "go back to the terminal" in body
    assert decode_jwt(tokens[0]["access_token"])["sub"] == "alice"
    assert provider.requests[0]["code"] == "the-code"
    assert urlsplit(provider.requests[0]["redirect_uri"]).path == "/callback"


async def test_a_browser_that_returns_with_another_state_is_refused(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: list[str] = []

    async def log_in() -> None:
        try:
            await config(provider).authorization_code_grant()
        except click.ClickException as error:
            refused.append(error.message)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log_in)
            url = await printed_url(capsys)
            returns = parse_qs(urlsplit(url).query)["redirect_uri"][0]
            await anyio.to_thread.run_sync(browse, f"{returns}?code=evil&state=other")
    assert refused
    assert "Login failed" in refused[0]
    assert provider.requests == []


async def printed_url(capsys: pytest.CaptureFixture[str]) -> str:
    """Wait for the address that a person is asked to open."""
    text = ""
    while not (match := re.search(r"http://\S+", text)):
        await anyio.sleep(0.01)
        text += capsys.readouterr().out
    return match[0]


def browse(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


async def test_the_device_login_waits_for_the_user(provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    provider.pending = 2
    tokens = await config(provider).device_authorization_grant()
    assert "enter the code AB-CD" in capsys.readouterr().out
    assert len(provider.requests) == 3
    assert tokens["access_token"]


@pytest.mark.parametrize(("error", "text"), [("access_denied", "denied by the user"), ("expired_token", "expired")])
async def test_a_device_login_that_ends_says_why(provider: Provider, error: str, text: str) -> None:
    provider.device_error = error
    with pytest.raises(click.ClickException, match=text):
        await config(provider).device_authorization_grant()


async def test_a_provider_without_device_login_is_told(provider: Provider) -> None:
    body = json.dumps({"token_endpoint": "x"}).encode()
    provider.answers["/.well-known/openid-configuration"] = (200, body)
    with pytest.raises(
        click.ClickException, match=r"does not support Device Authorization Grant.*device_authorization"
    ):
        await config(provider).device_authorization_grant()


@pytest.mark.parametrize(
    ("answer", "text"), [((200, b"<html>"), "Invalid JSON response received"), ((500, b"{}"), "can't be used")]
)
async def test_a_broken_provider_is_told(provider: Provider, answer: tuple[int, bytes], text: str) -> None:
    provider.answers["/.well-known/openid-configuration"] = answer
    with pytest.raises(click.ClickException, match=text):
        await config(provider).configuration()


async def test_an_absent_provider_is_told(free_tcp_port: int) -> None:
    with pytest.raises(click.ClickException, match=r"can't be used: Connection refused$"):
        await Config(issuer=f"http://127.0.0.1:{free_tcp_port}", client_id="c").configuration()


def test_insecure_clients_verify_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert Config(issuer="https://i", client_id="c", insecure_tls=True).client().verify is False
    assert Config(issuer="https://i", client_id="c").client().verify is True


def test_the_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/some/ca.pem")
    assert Config(issuer="https://i", client_id="c").client().verify == "/some/ca.pem"


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_claims_are_read_without_a_check_of_the_signature() -> None:
    token = make_jwt(iss="me", exp=12)
    assert decode_jwt(token) == {"iss": "me", "exp": 12}
    assert (decode_jwt_issuer(token), get_token_expiry(token)) == ("me", 12)


@pytest.mark.parametrize("token", ["", "abc", "a.b.c", "a.!!!.c", f"a.{base64.urlsafe_b64encode(b'3').decode()}.c"])
def test_what_is_no_token_is_a_value_error(token: str) -> None:
    with pytest.raises(ValueError, match="not a JSON Web Token"):
        decode_jwt(token)


def test_the_time_that_is_left() -> None:
    remaining = get_token_remaining_seconds(make_jwt(exp=time.time() + 100))
    assert remaining is not None
    assert 90 < remaining < 101
    assert get_token_remaining_seconds(make_jwt(sub="x")) is None


@pytest.mark.parametrize(("seconds", "text"), [(7500, "2h 5m"), (310, "5m 10s"), (7, "7s"), (-310, "5m 10s")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_device_flow_is_chosen_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert should_use_device_flow(None) is False
    monkeypatch.setenv("JMP_OIDC_DEVICE_FLOW", "1")
    assert should_use_device_flow(None) is True
    assert should_use_device_flow(False) is False
