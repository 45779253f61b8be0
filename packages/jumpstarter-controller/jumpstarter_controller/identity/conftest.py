"""What the tests of identity share: a store, a clock, keys, and a lab with accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jumpstarter_controller.clock import ManualClock
from jumpstarter_controller.identity.authenticate import Authenticator
from jumpstarter_controller.identity.issuing import issue_token
from jumpstarter_controller.identity.keys import Keys
from jumpstarter_controller.lab import Actor, Lab
from jumpstarter_controller.model.records import Account, Exporter, Kind, Meta
from jumpstarter_controller.settings import Settings
from jumpstarter_controller.store.sqlite import SQLiteStore

SERVER = Actor(kind="server", key=None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore(tmp_path / "lab.db", clock=clock, backup_every=None) as opened:
        yield opened


@pytest.fixture
async def keys(store: SQLiteStore, clock: ManualClock) -> Keys:
    return await Keys.load(store, clock)


@pytest.fixture
async def lab(store: SQLiteStore, clock: ManualClock) -> AsyncIterator[Lab]:
    opened = Lab(store, Settings(), clock)
    async with opened.run():
        yield opened


@pytest.fixture
def authenticator(lab: Lab, keys: Keys) -> Authenticator:
    return Authenticator(lab, keys, Settings())


@pytest.fixture
def add(lab: Lab) -> Callable[..., Awaitable[Account | Exporter]]:
    """Adds an account: `await add(Kind.CLIENT, "alice", username="dex:alice")`."""

    async def add_account(
        kind: Kind, name: str, *, namespace: str = "default", annotations: dict[str, str] | None = None, **values: Any
    ) -> Account | Exporter:
        meta = Meta(namespace=namespace, name=name, annotations=annotations or {})
        record = Exporter(meta=meta, **values) if kind is Kind.EXPORTER else Account(kind=kind, meta=meta, **values)
        return await lab.create_account(SERVER, record)

    return add_account


@pytest.fixture
def change(lab: Lab) -> Callable[..., Awaitable[Account | Exporter]]:
    """Changes fields of an account: `await change(key, enabled=False)`."""

    async def change_account(key: Any, **values: Any) -> Account | Exporter:
        account = lab.account(key)
        assert account is not None
        return await lab.update_account(SERVER, replace(account, **values))

    return change_account


@pytest.fixture
def token_for(lab: Lab, authenticator: Authenticator) -> Callable[..., Awaitable[str]]:
    """Issues a token for an account, as an administrator does."""

    async def issue(account: Account | Exporter, **times: Any) -> str:
        token, _ = await issue_token(lab, authenticator.tokens, SERVER, account.key, **times)
        return token

    return issue
