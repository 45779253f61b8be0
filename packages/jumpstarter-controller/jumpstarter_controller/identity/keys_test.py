"""Keys of tokens: random, kept, rotated."""

from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from jumpstarter.common.exceptions import ConfigurationError

from ..store.base import Unavailable
from ..store.sqlite import SQLiteStore
from .keys import ACCOUNT_SECRET, STREAM_KEY_LIFE, Keys, StreamKeys


async def test_A17_a_restart_keeps_the_keys(store, clock):
    first = await Keys.load(store, clock)
    second = await Keys.load(store, clock)

    assert first.jwks() == second.jwks()
    assert first.stream.values == second.stream.values


async def test_A17_two_fresh_installations_never_share_a_key(tmp_path: Path, clock):
    found = []
    for name in ("one", "two"):
        async with SQLiteStore(tmp_path / name / "lab.db", clock=clock, backup_every=None) as store:
            found.append(await Keys.load(store, clock))

    assert found[0].account[0].kid != found[1].account[0].kid
    assert found[0].jwks()["keys"][0]["x"] != found[1].jwks()["keys"][0]["x"]
    assert found[0].stream.values != found[1].stream.values


async def test_the_published_key_set_holds_no_private_part(keys):
    [key] = keys.jwks()["keys"]

    assert "d" not in key
    assert (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ES256")


async def test_two_controllers_that_start_at_once_agree(store, clock):
    found = []

    async def load():
        found.append(await Keys.load(store, clock))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        tasks.start_soon(load)

    assert found[0].jwks() == found[1].jwks()


async def test_a_rotated_key_is_accepted_for_its_time_then_dropped(keys, clock):
    former = keys.account[0].kid

    await keys.rotate_account_key(timedelta(minutes=10))

    assert [key.kid for key in keys.account][1:] == [former]
    clock.advance(timedelta(minutes=10))
    assert former not in [key.kid for key in keys.account]


async def test_a_second_rotation_does_not_prolong_the_first_key(keys, clock):
    first = keys.account[0].kid
    await keys.rotate_account_key(timedelta(minutes=10))
    clock.advance(timedelta(minutes=5))
    await keys.rotate_account_key(timedelta(minutes=10))
    assert first in [key.kid for key in keys.account]

    clock.advance(timedelta(minutes=5))

    assert first not in [key.kid for key in keys.account]
    assert len(keys.account) == 2


async def test_an_old_stream_key_is_replaced_and_whoever_waits_is_told(keys, clock):
    former = keys.stream.values[0]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keys.keep_fresh)
        with anyio.fail_after(10):
            await anyio.wait_all_tasks_blocked()
            clock.advance(STREAM_KEY_LIFE)
            await keys.stream.changed()
            assert keys.stream.values[1:] == (former,)

            await anyio.wait_all_tasks_blocked()
            clock.advance(timedelta(hours=1))
            await keys.stream.changed()
        tasks.cancel_scope.cancel()

    assert former not in keys.stream.values


async def test_while_the_store_is_away_the_keys_stay_and_are_looked_after_again_later(keys, clock, monkeypatch, caplog):
    async def away():
        raise Unavailable("the disk is full")

    former = keys.stream.values
    async with anyio.create_task_group() as tasks:
        with monkeypatch.context() as patch:
            patch.setattr(keys._store, "secrets", away)
            tasks.start_soon(keys.keep_fresh)
            await anyio.wait_all_tasks_blocked()
            clock.advance(STREAM_KEY_LIFE)
            await anyio.wait_all_tasks_blocked()
            assert keys.stream.values == former
            assert "the disk is full" in caplog.text
        with anyio.fail_after(10):
            clock.advance(timedelta(hours=1))
            await keys.stream.changed()
        tasks.cancel_scope.cancel()


async def test_a_damaged_secret_is_named_with_what_to_do(store, clock):
    await store.put_secret(ACCOUNT_SECRET, b'{"keys": [{"kid": "x", "pem": "no key"}]}')

    with pytest.raises(ConfigurationError, match="secret 'account-keys' in the store can't be read"):
        await Keys.load(store, clock)


@pytest.mark.parametrize("keys", [(), (b"",), (b"short",)])
def test_stream_keys_that_could_be_guessed_are_refused(keys):
    with pytest.raises(ConfigurationError, match="16 bytes"):
        StreamKeys().replace(keys)
