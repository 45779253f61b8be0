"""Logging in and looking after tokens, with a real login provider on a local port."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from jumpstarter.common.exceptions import ReauthenticationFailed
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1
from jumpstarter_cli_common.oidc_test import Provider, make_jwt

from .jmp import jmp
from .login import (
    _validate_auth_config_payload,
    _validate_login_endpoint_url,
    fetch_auth_config,
    parse_login_argument,
    relogin_client,
)

NEW = ("--namespace", "lab", "--name", "alice", "-e", "ctrl:443", "--nointeractive")
PASSWORD = ("--username", "alice", "--password", "right")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def run(*args: str, input: str | None = None) -> Result:
    return CliRunner().invoke(jmp, args, input=input, prog_name="jmp")


def login(*args: str, input: str | None = None) -> Result:
    return run("login", *args, input=input)


def save(token: str | None, refresh_token: str | None = None, alias: str = "a") -> ClientConfigV1Alpha1:
    config = ClientConfigV1Alpha1(
        alias=alias,
        metadata=ObjectMeta(namespace="lab", name="alice"),
        endpoint="ctrl:443",
        token=token,
        refresh_token=refresh_token,
    )
    ClientConfigV1Alpha1.save(config)
    return config


# --- login -----------------------------------------------------------------------------------------------------------


def test_a_login_makes_a_client_and_makes_it_current(provider: Provider) -> None:
    result = login("--client", "a", "--issuer", provider.issuer, "--unsafe", *NEW, *PASSWORD)
    assert result.exit_code == 0, result.output
    assert "'a' is now the current client" in result.stdout
    config = ClientConfigV1Alpha1.load("a")
    assert (config.endpoint, config.metadata.namespace, config.refresh_token) == ("ctrl:443", "lab", "good-refresh")
    assert config.drivers.unsafe is True
    current = UserConfigV1Alpha1.load().config.current_client
    assert current is not None
    assert current.alias == "a"


def test_a_login_renews_the_token_of_an_existing_client(provider: Provider) -> None:
    save(provider.token(exp=1))
    result = login("--client", "a", "--nointeractive", *PASSWORD)
    assert result.exit_code == 0, result.output
    assert ClientConfigV1Alpha1.load("a").token != provider.token(exp=1)


def test_a_stored_refresh_token_is_tried_first(provider: Provider) -> None:
    save(provider.token(exp=1), "good-refresh")
    assert login("--client", "a", "--nointeractive").exit_code == 0
    assert [form["grant_type"] for form in provider.requests] == ["refresh_token"]


def test_a_login_of_an_exporter_keeps_its_drivers(provider: Provider) -> None:
    config = ExporterConfigV1Alpha1(
        alias="x", metadata=ObjectMeta(namespace="lab", name="bench-1"), endpoint="ctrl:443", description="a bench"
    )
    ExporterConfigV1Alpha1.save(config)
    options = ("--exporter", "x", "--issuer", provider.issuer, "--nointeractive", "--allow", "a")
    result = login(*options, *PASSWORD)
    assert result.exit_code == 0, result.output
    assert "--allow is for client configs and is ignored" in result.stdout
    saved = ExporterConfigV1Alpha1.load("x")
    assert saved.token
    assert saved.description == "a bench"
    assert provider.requests[0]["scope"] == "openid profile"


def test_a_user_without_a_password_is_asked_for_it(provider: Provider) -> None:
    save(provider.token())
    result = login("--client", "a", "--username", "alice", input="right\n")
    assert result.exit_code == 0, result.output
    assert "right" not in result.output


def test_a_token_is_exchanged(provider: Provider) -> None:
    save(provider.token())
    assert login("--client", "a", "--token", "id-token", "--connector-id", "dex").exit_code == 0
    assert provider.requests[0]["subject_token"] == "id-token"
    assert provider.requests[0]["connector_id"] == "dex"


def test_wrong_credentials_are_told_in_one_line(provider: Provider) -> None:
    save(provider.token())
    result = login("--client", "a", "--username", "alice", "--password", "wrong")
    assert result.exit_code == 1
    assert result.stderr == "Error: Login failed: wrong credentials\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--client", "a", "--nointeractive"), "--allow and --unsafe"),
        (("--client", "a", "--nointeractive", "--unsafe"), "Missing option '--namespace'"),
        (("--client", "a", "--unsafe", *NEW), "Missing option '--issuer'"),
        (("--client", "a", "--unsafe", *NEW, "--issuer", "http://127.0.0.1:1"), "--token or by --username"),
    ],
)
def test_with_nointeractive_what_is_missing_is_a_usage_error(args: tuple[str, ...], text: str) -> None:
    result = login(*args)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not ClientConfigV1Alpha1.exists("a")


def test_a_login_endpoint_tells_the_rest(provider: Provider) -> None:
    body = {"grpcEndpoint": "found:443", "namespace": "found-ns", "oidc": [{"issuer": provider.issuer}]}
    provider.answers["/v1/auth/config"] = (200, json.dumps(body).encode())
    result = login(f"bob@{provider.issuer}", "-k", "--unsafe", "--nointeractive", *PASSWORD)
    assert result.exit_code == 0, result.output
    config = ClientConfigV1Alpha1.load("bob")
    assert (config.endpoint, config.metadata.namespace, config.metadata.name) == ("found:443", "found-ns", "bob")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" host ", (None, "host")),
        ("me@host", ("me", "host")),
        ("me@corp@host", ("me@corp", "host")),
        ("https://h:1", (None, "https://h:1")),
    ],
)
def test_login_targets(text: str, expected: tuple[str | None, str]) -> None:
    assert parse_login_argument(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "Login target cannot be empty"),
        ("@host", "Client name before '@' cannot be empty"),
        ("me@ ", "Login endpoint after '@' cannot be empty"),
    ],
)
def test_wrong_login_targets(text: str, message: str) -> None:
    with pytest.raises(click.ClickException, match=message):
        parse_login_argument(text)


@pytest.mark.parametrize(
    ("url", "text"),
    [("https://", "missing host"), ("ftp://h", "unsupported URL scheme"), ("http://h", "Use --insecure-tls")],
)
def test_wrong_login_endpoints(url: str, text: str) -> None:
    with pytest.raises(click.ClickException, match=text):
        _validate_login_endpoint_url(url)
    _validate_login_endpoint_url("http://h", allow_http=True)


@pytest.mark.parametrize(
    "payload",
    [{}, [], {"grpcEndpoint": 3}, {"grpcEndpoint": "a", "oidc": 3}, {"grpcEndpoint": "a", "caBundle": "!"}],
)
def test_useless_answers_of_a_login_endpoint(payload: Any) -> None:
    with pytest.raises(click.ClickException, match="Unexpected answer from https://h"):
        _validate_auth_config_payload(payload, "https://h")


async def test_a_login_endpoint_that_speaks_no_json_is_told(provider: Provider) -> None:
    provider.answers["/v1/auth/config"] = (200, b"<html>")
    with pytest.raises(click.ClickException, match="Invalid JSON response received"):
        await fetch_auth_config(provider.issuer, insecure_tls=True)


# --- logging in again ------------------------------------------------------------------------------------------------


def test_an_expired_client_logs_in_again_by_its_refresh_token(provider: Provider) -> None:
    config = save(provider.token(exp=1), "good-refresh")
    relogin_client(config)
    assert ClientConfigV1Alpha1.load("a").token == config.token != provider.token(exp=1)


def test_without_a_refresh_token_and_a_person_it_can_not(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(ReauthenticationFailed, match="nobody at a terminal"):
        relogin_client(save(provider.token(exp=1)))
    with pytest.raises(ReauthenticationFailed, match="wrong credentials"):
        relogin_client(save(provider.token(exp=1), "bad-refresh"))


# --- auth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7300, "Valid for 2h"), (200, "EXPIRING SOON"), (-100, "EXPIRED 1m"), (None, "Valid (without")],
)
def test_the_state_of_a_token(seconds: int | None, text: str) -> None:
    claims: dict[str, Any] = {"sub": "alice", "iss": "https://idp"}
    save(make_jwt(**claims, **({} if seconds is None else {"exp": time.time() + seconds})))
    result = run("auth", "status", "--client", "a")
    assert result.exit_code == 0
    assert f"Status: {text}" in result.stdout
    assert "Subject: alice\nIssuer: https://idp\n" in result.stdout


def test_more_about_a_token_on_request() -> None:
    save(make_jwt(iat=1, auth_time=2), "r")
    result = run("auth", "status", "--client", "a", "-v")
    assert "Refresh token stored: yes" in result.stdout
    assert "Issued at: 1970" in result.stdout


def test_no_token_is_no_failure() -> None:
    save(None)
    result = run("auth", "status", "--client", "a")
    assert result.exit_code == 0
    assert "No token found" in result.stdout


def test_a_token_that_is_none_is_told() -> None:
    save("not-a-jwt")
    result = run("auth", "status", "--client", "a")
    assert result.exit_code == 1
    assert "not a JSON Web Token" in result.stderr


def test_a_token_is_refreshed(provider: Provider) -> None:
    save(provider.token(exp=1), "good-refresh")
    result = run("auth", "refresh", "--client", "a")
    assert result.exit_code == 0, result.output
    assert "Token refreshed" in result.stdout
    assert ClientConfigV1Alpha1.load("a").token != provider.token(exp=1)


@pytest.mark.parametrize(
    ("token", "command", "text"),
    [
        (None, "refresh", "No token found"),
        (make_jwt(iss="x"), "refresh", "No refresh token found"),
        (None, "rotate", "No token found"),
        (make_jwt(exp=1), "rotate", "expired"),
    ],
)
def test_what_can_not_be_renewed_says_why(token: str | None, command: str, text: str) -> None:
    save(token)
    result = run("auth", command, "--client", "a")
    assert result.exit_code == 1
    assert text in result.stderr


def test_a_token_is_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    save(make_jwt(exp=time.time() + 1000))
    fresh = make_jwt(exp=time.time() + 5000)
    monkeypatch.setattr(ClientConfigV1Alpha1, "rotate_token", lambda _: SimpleNamespace(token=fresh))
    result = run("auth", "rotate", "--client", "a")
    assert result.exit_code == 0
    assert "rotated" in result.stdout
    assert ClientConfigV1Alpha1.load("a").token == fresh
