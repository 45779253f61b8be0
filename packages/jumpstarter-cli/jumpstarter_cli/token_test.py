"""Tokens that expire while a shell runs."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter_cli_common.oidc_test import Provider, make_jwt

from . import shell
from .shell import (
    _attempt_token_recovery,
    _monitor_token_expiry,
    _try_refresh_token,
    _try_reload_token_from_disk,
)
from .shell_token import check_token


class LeaseDouble:
    """Takes new channels, which is all that a new token does to a lease."""

    def __init__(self) -> None:
        self.channels: list[Any] = []

    def refresh_channel(self, channel: Any) -> None:
        self.channels.append(channel)


def token(seconds: float, **claims: Any) -> str:
    return make_jwt(exp=time.time() + seconds, **claims)


def saved(token: str | None, refresh_token: str | None = None) -> ClientConfigV1Alpha1:
    config = ClientConfigV1Alpha1(
        alias="a",
        metadata=ObjectMeta(namespace="lab", name="alice"),
        endpoint="127.0.0.1:1",
        token=token,
        refresh_token=refresh_token,
        tls={"insecure": True},
    )
    ClientConfigV1Alpha1.save(config)
    return config


def log_in_elsewhere(config: ClientConfigV1Alpha1, fresh: str) -> None:
    """Put another token into the file of the config."""
    path = Path(str(config.path))
    path.write_text(path.read_text().replace(str(config.token), fresh))


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> None:
    async def channel(_: Any) -> str:
        return "a channel"

    monkeypatch.setattr(ClientConfigV1Alpha1, "channel", channel)


@pytest.mark.usefixtures("channels")
async def test_a_token_is_refreshed_and_kept() -> None:
    with Provider() as provider:
        config, lease = saved(provider.token(exp=1), "good-refresh"), LeaseDouble()
        assert await _try_refresh_token(config, lease)
    assert lease.channels == ["a channel"]
    assert ClientConfigV1Alpha1.load("a").token == config.token


async def test_a_failed_refresh_leaves_the_tokens_as_they_were() -> None:
    with Provider() as provider:
        before = provider.token(exp=1)
        config = saved(before, "bad-refresh")
        assert not await _try_refresh_token(config, None)
    assert (config.token, config.refresh_token) == (before, "bad-refresh")
    assert not await _try_refresh_token(saved(before), None)


@pytest.mark.usefixtures("channels")
async def test_a_token_of_another_login_is_taken_from_the_file() -> None:
    config, lease = saved(token(-1)), LeaseDouble()
    fresh = token(1000)
    log_in_elsewhere(config, fresh)
    assert await _attempt_token_recovery(config, lease) == "Token reloaded from login."
    assert config.token == fresh
    assert lease.channels == ["a channel"]


@pytest.mark.parametrize("stored", [token(-5), "not-a-jwt"], ids=["expired", "no token"])
async def test_a_useless_token_in_the_file_is_left_there(stored: str) -> None:
    config = saved(stored)
    config.token = before = token(-1)
    assert not await _try_reload_token_from_disk(config, None)
    assert config.token == before


def test_an_expired_token_is_refused_before_anything_is_leased() -> None:
    config = SimpleNamespace(token=token(-1))
    with pytest.raises(ConnectionError, match="token is expired") as caught:
        check_token(config)
    assert caught.value.get_config() is config
    for usable in (None, "not-a-jwt", token(100), make_jwt(sub="x")):
        check_token(SimpleNamespace(token=usable))


class Clock:
    """Stands for time: every sleep is noted and moves on the remaining life of the token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, remaining: float, recoveries: list[str | None]) -> None:
        self.remaining, self.sleeps, self.recoveries = remaining, list[float](), recoveries
        monkeypatch.setattr(shell, "get_token_remaining_seconds", lambda _: self.remaining)
        monkeypatch.setattr(shell, "_attempt_token_recovery", self.recover)
        monkeypatch.setattr(shell.anyio, "sleep", self.sleep)

    async def recover(self, *_: Any) -> str | None:
        message = self.recoveries.pop(0)
        if message is not None:
            self.remaining = 10_000
        return message

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.remaining -= seconds
        if len(self.sleeps) > 60 or not (self.recoveries or self.remaining > 300):
            raise RuntimeError("the test has seen enough")


async def test_a_token_is_replaced_before_it_expires(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch, 310, ["Token refreshed automatically."])
    await _monitor_token_expiry(SimpleNamespace(token="t"), None, anyio.CancelScope(), {})
    text = capsys.readouterr().err
    assert text.count("auto-refresh") == 1
    assert text.count("Token refreshed automatically.") == 1
    assert clock.sleeps[0] == 30
    assert clock.recoveries == []


async def test_a_token_that_can_not_be_replaced_is_warned_of_once_before_and_once_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Clock(monkeypatch, 11, [None] * 6)
    scope, state = anyio.CancelScope(), dict[str, Any]()
    await _monitor_token_expiry(SimpleNamespace(token="t"), None, scope, state)
    text = capsys.readouterr().err
    assert text.count("could not be refreshed") == 2
    assert text.count("has expired") == 1
    assert state == {"expired_unrecovered": True}
    assert not scope.cancel_called


@pytest.mark.parametrize("value", [None, "", make_jwt(sub="x"), "not-a-jwt"])
async def test_without_an_expiry_there_is_nothing_to_watch(value: str | None) -> None:
    with anyio.fail_after(5):
        await _monitor_token_expiry(SimpleNamespace(token=value), None, anyio.CancelScope())
