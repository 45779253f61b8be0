"""Who is let in, in the codes and words of published controllers."""

import logging
import time
from datetime import timedelta

import anyio
import pytest

from ..errors import Code, Refused
from ..lab import Actor
from ..model.records import Key, Kind
from .authenticate import Authenticator
from .request import bearer_token, peer_address

PEER = "ipv4:192.0.2.7:40000"
ALL = (Kind.CLIENT, Kind.EXPORTER, Kind.ADMIN, Kind.ROUTER)


def call(token, name="alice", kind="Client", namespace="default"):
    return [
        ("user-agent", "grpc-python"),
        ("authorization", f"Bearer {token}"),
        ("jumpstarter-kind", kind),
        ("jumpstarter-namespace", namespace),
        ("jumpstarter-name", name),
    ]


async def refusal(authenticator, metadata, expected=Kind.CLIENT, **options):
    with pytest.raises(Refused) as caught:
        await authenticator.authenticate(metadata, PEER, expected, **options)
    return caught.value


@pytest.fixture
async def alice(add):
    return await add(Kind.CLIENT, "alice")


@pytest.fixture
async def token(alice, token_for):
    return await token_for(alice)


@pytest.mark.parametrize(
    ("kind", "word"),
    [(Kind.CLIENT, "Client"), (Kind.EXPORTER, "Exporter"), (Kind.ADMIN, "Admin"), (Kind.ROUTER, "Router")],
)
async def test_a_valid_token_names_its_account(authenticator, add, token_for, kind, word):
    account = await add(kind, "it")

    actor = await authenticator.authenticate(call(await token_for(account), "it", word), PEER, kind)

    assert (actor.kind, actor.key, actor.peer) == (word.lower(), account.key, "192.0.2.7")


async def test_the_scheme_and_the_keys_may_be_in_any_case(authenticator, token):
    metadata = [(key.title(), value.replace("Bearer", "bEARER")) for key, value in call(token)]

    assert (await authenticator.authenticate(metadata, PEER, Kind.CLIENT)).key.name == "alice"


async def test_A03_an_account_token_needs_a_name(authenticator, token):
    empty = await refusal(authenticator, call(token, name=""))
    missing = await refusal(authenticator, call(token)[:-1])
    twice = await refusal(authenticator, [*call(token), ("jumpstarter-name", "alice")])

    assert {empty.code, missing.code, twice.code} == {Code.INVALID_ARGUMENT}
    assert "jumpstarter-name is empty" in empty.message


async def test_A04_a_token_of_another_client_is_refused_by_the_name_that_was_asked_for(authenticator, token, add):
    await add(Kind.CLIENT, "bob")

    refused = await refusal(authenticator, call(token, name="bob"))

    assert refused.code is Code.PERMISSION_DENIED
    assert "permission denied" in refused.message
    assert "default/bob" in refused.message


async def test_A05_a_clients_token_is_no_exporters(authenticator, token, add):
    missing = await refusal(authenticator, call(token, kind="Exporter"), Kind.EXPORTER)
    await add(Kind.EXPORTER, "alice")
    there = await refusal(authenticator, call(token, kind="Exporter"), Kind.EXPORTER)
    mismatch = await refusal(authenticator, call(token), Kind.EXPORTER)

    assert (missing.code, there.code) == (Code.UNKNOWN, Code.PERMISSION_DENIED)
    assert mismatch.code is Code.INVALID_ARGUMENT
    assert "object kind mismatch" in mismatch.message


async def test_A06_a_token_of_one_namespace_is_no_good_in_another(authenticator, token, add):
    await add(Kind.CLIENT, "alice", namespace="other")

    refused = await refusal(authenticator, call(token, namespace="other"))

    assert refused.code is Code.PERMISSION_DENIED
    assert "other/alice" in refused.message


async def test_A07_a_call_brings_one_bearer_token(authenticator, token):
    rest = call(token)[2:]
    code = {
        "none": (await refusal(authenticator, rest)).code,
        "two": (await refusal(authenticator, [*call(token), ("authorization", f"Bearer {token}")])).code,
        "basic": (await refusal(authenticator, [("authorization", f"Basic {token}"), *rest])).code,
        "bare": (await refusal(authenticator, [("authorization", token), *rest])).code,
        "no token": (await refusal(authenticator, [("authorization", "Bearer "), *rest])).code,
        "no metadata": (await refusal(authenticator, [])).code,
    }

    assert code.pop("none") is Code.UNAUTHENTICATED
    assert set(code.values()) == {Code.INVALID_ARGUMENT}


@pytest.mark.parametrize("key", ["jumpstarter-kind", "jumpstarter-namespace"])
async def test_kind_and_namespace_are_given_once(authenticator, token, key):
    missing = await refusal(authenticator, [entry for entry in call(token) if entry[0] != key])
    twice = await refusal(authenticator, [*call(token), (key, "x")])

    assert (missing.code, twice.code) == (Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT)
    assert f"{key} is missing" in missing.message
    assert f"{key} is given more than once" in twice.message


async def test_A08_a_corrupted_token_is_refused_and_logged_once_without_it(authenticator, token, caplog):
    corrupted = token[:-8] + "AAAAAAAA"
    with caplog.at_level(logging.DEBUG):
        refused = await refusal(authenticator, call(corrupted))

    [record] = caplog.records
    assert refused.code is Code.UNKNOWN
    assert record.getMessage().startswith("client authentication failed: peer 192.0.2.7: ")
    assert corrupted not in caplog.text
    assert corrupted.split(".")[1] not in caplog.text


@pytest.mark.parametrize("made_up", ["Bearer", "Basic abcdef123456", "Bearer abcdef123456", "abcdef123456"])
async def test_A08_whatever_stands_in_for_a_token_is_not_logged(authenticator, alice, made_up, caplog):
    with caplog.at_level(logging.DEBUG):
        refused = await refusal(authenticator, [("authorization", made_up), *call("")[2:]])

    assert len(caplog.records) == 1
    assert "abcdef123456" not in caplog.text + str(refused) + repr(refused)


async def test_what_a_peer_sends_cannot_forge_a_line_of_the_log(authenticator, token, caplog):
    await refusal(authenticator, call(token, name="x\nclient authentication failed: peer 1.1.1.1\x1b[2J"))

    assert len(caplog.text.splitlines()) == 1
    assert "\x1b" not in caplog.text


async def test_an_expired_token_is_refused_in_the_words_that_published_clients_look_for(authenticator, token, clock):
    clock.advance(timedelta(days=90))

    refused = await refusal(authenticator, call(token))

    assert refused.code is Code.UNKNOWN
    assert "token is expired" in refused.message


async def test_a_token_that_nobody_here_issued_is_refused(authenticator, alice):
    from joserfc import jwt
    from joserfc.jwk import ECKey

    foreign = jwt.encode({"alg": "ES256"}, {"iss": "https://else.where", "sub": "alice"}, ECKey.generate_key("P-256"))

    refused = await refusal(authenticator, call(foreign))

    assert refused.code is Code.UNKNOWN
    assert "failed to authenticate token" in refused.message


async def test_A15_the_token_of_a_migrated_account_carries_its_former_identity(authenticator, add, token_for):
    annotations = {"jumpstarter.dev/migrated-namespace": "old", "jumpstarter.dev/migrated-uid": "old-uid"}
    account = await add(Kind.CLIENT, "alice", annotations=annotations)

    token = await token_for(account)

    assert authenticator.tokens.verify(token).subject == "client:old:alice:old-uid"
    assert (await authenticator.authenticate(call(token), PEER, Kind.CLIENT)).key == account.key


async def test_A15_a_token_from_before_the_annotations_stays_good(authenticator, alice, token, change, lab):
    from dataclasses import replace

    annotations = {"jumpstarter.dev/migrated-namespace": "old", "jumpstarter.dev/migrated-uid": "old-uid"}
    await change(alice.key, meta=replace(lab.account(alice.key).meta, annotations=annotations))

    assert (await authenticator.authenticate(call(token), PEER, Kind.CLIENT)).key == alice.key


async def test_A15_empty_annotations_are_ignored(authenticator, add, token_for):
    empty = {"jumpstarter.dev/migrated-namespace": "", "jumpstarter.dev/migrated-uid": ""}
    account = await add(Kind.CLIENT, "alice", annotations=empty)

    token = await token_for(account)

    assert authenticator.tokens.verify(token).subject == f"client:default:alice:{account.meta.uid}"
    assert (await authenticator.authenticate(call(token), PEER, Kind.CLIENT)).key == account.key


@pytest.mark.parametrize(("kind", "word"), [(Kind.CLIENT, "Client"), (Kind.EXPORTER, "Exporter")])
async def test_A20_tokens_of_deleted_and_recreated_accounts_are_refused(authenticator, add, token_for, lab, kind, word):
    account = await add(kind, "it")
    token = await token_for(account)
    await authenticator.authenticate(call(token, "it", word), PEER, kind)

    await lab.delete_account(Actor(kind="server", key=None), account.key)
    deleted = await refusal(authenticator, call(token, "it", word), kind)
    again = await add(kind, "it")
    old = await refusal(authenticator, call(token, "it", word), kind)

    assert deleted.code is Code.UNKNOWN
    assert f"{word.lower()} 'default/it' not found" in deleted.message
    assert old.code is Code.PERMISSION_DENIED
    await authenticator.authenticate(call(await token_for(again), "it", word), PEER, kind)


async def test_A16_a_rotated_token_works_and_the_old_one_ends_after_the_grace_time(
    authenticator, alice, token, token_for, clock
):
    new = await token_for(alice)

    assert new != token
    await authenticator.authenticate(call(new), PEER, Kind.CLIENT)
    await authenticator.authenticate(call(token), PEER, Kind.CLIENT)
    clock.advance(timedelta(minutes=5))
    await authenticator.authenticate(call(new), PEER, Kind.CLIENT)
    assert (await refusal(authenticator, call(token))).reason == "TOKEN_REPLACED"


async def test_A16_a_token_for_an_account_that_is_not_there_is_an_error(authenticator, lab):
    from .issuing import issue_token

    with pytest.raises(Refused) as caught:
        await issue_token(lab, authenticator.tokens, Actor(kind="server", key=None), Key(Kind.CLIENT, "default", "no"))

    assert caught.value.code is Code.NOT_FOUND


async def test_A16_rotations_at_once_each_give_a_token_that_works(authenticator, alice, token_for):
    tokens = []

    async def rotate():
        tokens.append(await token_for(alice))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(rotate)

    assert len(set(tokens)) == 4
    for token in tokens:
        await authenticator.authenticate(call(token), PEER, Kind.CLIENT)


async def test_A18_an_account_whose_credential_was_lost_gets_a_new_token(
    authenticator, alice, token, change, token_for
):
    from ..model.records import Credential

    await change(alice.key, credential=Credential())
    assert (await refusal(authenticator, call(token))).reason == "TOKEN_REPLACED"

    assert await authenticator.authenticate(call(await token_for(alice)), PEER, Kind.CLIENT)


async def test_a_disabled_client_is_refused_until_it_is_enabled(authenticator, alice, token, change):
    await change(alice.key, enabled=False)
    refused = await refusal(authenticator, call(token))
    await change(alice.key, enabled=True)

    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "ACCOUNT_DISABLED")
    assert await authenticator.authenticate(call(token), PEER, Kind.CLIENT)


async def test_a_disabled_exporter_still_speaks_to_the_server(authenticator, add, token_for):
    account = await add(Kind.EXPORTER, "board", enabled=False)

    token = await token_for(account)

    assert await authenticator.authenticate(call(token, "board", "Exporter"), PEER, Kind.EXPORTER)


async def test_over_http_the_token_alone_tells_who_calls(authenticator, alice, token):
    actor = await authenticator.authenticate([("Authorization", f"Bearer {token}")], "192.0.2.9", ALL, complete=True)

    assert (actor.key, actor.peer) == (alice.key, "192.0.2.9")


async def test_over_http_the_kind_still_has_to_be_right(authenticator, token):
    refused = await refusal(authenticator, [("authorization", f"Bearer {token}")], Kind.ADMIN, complete=True)

    assert "object kind mismatch" in refused.message


async def lapse(authenticator, actor, act):
    """What `lapsed` returns after `act`, which runs once it waits."""
    found = []

    async def wait():
        found.append(await authenticator.lapsed(actor))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not found
            await act()
    return found[0]


async def test_a_long_call_hears_that_its_account_was_deleted(authenticator, alice, token, lab):
    actor = await authenticator.authenticate(call(token), PEER, Kind.CLIENT)
    authenticator.reauthorize(actor)

    refused = await lapse(authenticator, actor, lambda: lab.delete_account(Actor(kind="server", key=None), alice.key))

    assert refused.reason == "ACCOUNT_UNKNOWN"


async def test_a_long_call_hears_that_its_account_was_disabled(authenticator, alice, token, change):
    actor = await authenticator.authenticate(call(token), PEER, Kind.CLIENT)

    refused = await lapse(authenticator, actor, lambda: change(alice.key, enabled=False))

    assert refused.reason == "ACCOUNT_DISABLED"


async def test_a_long_call_with_a_replaced_token_ends_with_the_grace_time(
    authenticator, alice, token, token_for, clock
):
    actor = await authenticator.authenticate(call(token), PEER, Kind.CLIENT)

    async def rotate():
        await token_for(alice)
        await anyio.wait_all_tasks_blocked()
        authenticator.reauthorize(actor)
        clock.advance(timedelta(minutes=5))

    assert (await lapse(authenticator, actor, rotate)).reason == "TOKEN_REPLACED"


async def test_a_long_call_outlives_the_expiry_of_its_token(authenticator, token, clock):
    actor = await authenticator.authenticate(call(token), PEER, Kind.CLIENT)

    clock.advance(timedelta(days=91))

    authenticator.reauthorize(actor)


async def test_authentication_of_a_known_token_costs_less_than_50_microseconds(authenticator, token):
    metadata = call(token)
    await authenticator.authenticate(metadata, PEER, Kind.CLIENT)

    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(200):
            await authenticator.authenticate(metadata, PEER, Kind.CLIENT)
        best = min(best, (time.perf_counter() - started) / 200)

    print(f"{best * 1e6:.1f} us")
    assert best < 50e-6


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:/run/socket", "unix"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("", "unknown"),
    ],
)
def test_a_peer_is_known_by_its_address_alone(peer, address):
    assert peer_address(peer) == address


def test_a_bearer_token_may_be_surrounded_by_blanks():
    assert bearer_token(["  Bearer   abc "]) == "abc"


async def test_settings_of_providers_are_checked_at_once(lab, keys):
    from jumpstarter.common.exceptions import ConfigurationError

    from ..settings import Settings

    with pytest.raises(ConfigurationError, match=r"authentication\.jwt\[0\]\.issuer"):
        Authenticator(lab, keys, Settings(jwt=({"issuer": {}},)))
