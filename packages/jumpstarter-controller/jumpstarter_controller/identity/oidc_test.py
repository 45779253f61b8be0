"""Users of a login provider, with a real provider over TLS."""

import logging
import time
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
import pytest
from jumpstarter.common.exceptions import ConfigurationError

from ..clock import ManualClock
from ..errors import Code, Refused
from ..model.records import Key, Kind
from ..settings import Settings
from .authenticate import Authenticator
from .jwks import Intervals
from .oidc import Providers
from .tokens import unverified

pytestmark = pytest.mark.daemon

PEER = "ipv4:192.0.2.7:40000"


@pytest.fixture
def clock():
    """As late as it is for the provider."""
    return ManualClock(datetime.now(UTC))


def settings_of(provider, issuer=None, username=None, **changes):
    return {
        "issuer": {
            "url": provider.issuer,
            "certificateAuthority": provider.ca,
            "audiences": ["jumpstarter"],
            **(issuer or {}),
        },
        "claimMappings": {"username": username or {"claim": "preferred_username", "prefix": "dex:"}},
        **changes,
    }


async def access_token(provider, login="alice"):
    return await anyio.to_thread.run_sync(provider.access_token, login)


@pytest.fixture
async def token(identity_provider):
    return await access_token(identity_provider)


@pytest.fixture
def trusting(identity_provider, lab, keys):
    """An authenticator that knows the provider: `trusting(provisioning=True)`."""

    def make(provisioning=False, **values):
        lab.settings = Settings(jwt=(settings_of(identity_provider, **values),), provisioning=provisioning)
        return Authenticator(lab, keys, lab.settings)

    return make


def call(token, *names, kind="Client", namespace="default"):
    metadata = [
        ("authorization", f"Bearer {token}"),
        ("jumpstarter-kind", kind),
        ("jumpstarter-namespace", namespace),
    ]
    return [*metadata, *(("jumpstarter-name", name) for name in names)]


async def refusal(authenticator, metadata, expected=Kind.CLIENT):
    with pytest.raises(Refused) as caught:
        await authenticator.authenticate(metadata, PEER, expected)
    return caught.value


async def user(provider, token, clock, **values):
    """The name that a provider's token has under some settings."""
    found = await Providers([settings_of(provider, **values)], clock).verify(provider.issuer, token)
    return found.username


async def test_A10_a_user_who_comes_for_the_first_time_gets_a_client(trusting, identity_provider, lab):
    token = await access_token(identity_provider, "Bob.Builder")

    actor = await trusting(provisioning=True).authenticate(call(token), PEER, Kind.CLIENT)

    assert actor.key == Key(Kind.CLIENT, "default", "bob-builder")
    assert lab.account(actor.key).username == "dex:Bob.Builder"


async def test_A10_many_first_calls_at_once_make_one_client(trusting, token, lab):
    authenticator = trusting(provisioning=True)
    found = []

    async def once():
        found.append(await authenticator.authenticate(call(token), PEER, Kind.CLIENT))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(once)

    assert {actor.uid for actor in found} == {lab.account(Key(Kind.CLIENT, "default", "alice")).meta.uid}


async def test_without_provisioning_an_unknown_user_is_refused(trusting, token, lab):
    refused = await refusal(trusting(), call(token))

    assert refused.code is Code.UNKNOWN
    assert "client 'default/alice' not found" in refused.message
    assert lab.account(Key(Kind.CLIENT, "default", "alice")) is None


async def test_new_clients_are_made_in_the_namespace_of_the_lab_alone(trusting, token, lab):
    refused = await refusal(trusting(provisioning=True), call(token, namespace="elsewhere"))

    assert refused.code is Code.PERMISSION_DENIED
    assert "the namespace default" in refused.message
    assert lab.account(Key(Kind.CLIENT, "elsewhere", "alice")) is None


async def test_A11_a_name_that_is_not_the_users_is_refused_with_both(trusting, token):
    refused = await refusal(trusting(provisioning=True), call(token, "other"))

    assert refused.code is Code.INVALID_ARGUMENT
    assert "'other'" in refused.message
    assert "'alice'" in refused.message
    assert "'dex:alice'" in refused.message


@pytest.mark.parametrize("names", [(), ("",), ("alice",), ("alice", "alice")])
async def test_A11_a_name_that_can_be_derived_may_be_left_out(trusting, token, add, names):
    await add(Kind.CLIENT, "alice", username="dex:alice")

    assert (await trusting().authenticate(call(token, *names), PEER, Kind.CLIENT)).key.name == "alice"


async def test_A12_the_client_of_another_user_of_that_name_is_refused(trusting, token, add):
    await add(Kind.CLIENT, "alice", username="keycloak:alice")

    refused = await refusal(trusting(provisioning=True), call(token))

    assert refused.code is Code.PERMISSION_DENIED
    assert "default/alice" in refused.message


@pytest.mark.parametrize("name", ["robot", "other-name"])
async def test_A13_a_service_account_has_the_name_that_it_gives(run_identity_provider, lab, keys, add, name):
    subject = "system:serviceaccount:team:builder"
    with run_identity_provider(users={subject: {}}) as provider:
        mapping = {"claim": "sub", "prefix": "kubernetes:"}
        settings = Settings(jwt=(settings_of(provider, username=mapping),))
        authenticator = Authenticator(lab, keys, settings)
        await add(Kind.EXPORTER, name, username=f"kubernetes:{subject}")
        token = await access_token(provider, subject)

        actor = await authenticator.authenticate(call(token, name, kind="Exporter"), PEER, Kind.EXPORTER)
        empty = await refusal(authenticator, call(token, "", kind="Exporter"), Kind.EXPORTER)

    assert actor.key.name == name
    assert empty.code is Code.INVALID_ARGUMENT


async def test_A14_an_exporter_is_never_made_by_its_first_call(trusting, token, lab):
    refused = await refusal(trusting(provisioning=True), call(token, kind="Exporter"), Kind.EXPORTER)

    assert refused.code is Code.UNKNOWN
    assert lab.account(Key(Kind.EXPORTER, "default", "alice")) is None


async def test_a_deleted_and_remade_client_ends_long_calls_of_the_user(trusting, token, lab, add):
    from ..lab import Actor

    authenticator = trusting(provisioning=True)
    actor = await authenticator.authenticate(call(token), PEER, Kind.CLIENT)
    authenticator.reauthorize(actor)

    await lab.delete_account(Actor(kind="server", key=None), actor.key)
    await add(Kind.CLIENT, "alice", username="dex:alice")

    with pytest.raises(Refused, match="made anew"):
        authenticator.reauthorize(actor)


async def test_an_expired_token_is_refused_in_the_words_of_the_login(trusting, token, clock):
    authenticator = trusting(provisioning=True)
    await authenticator.authenticate(call(token), PEER, Kind.CLIENT)

    clock.advance(timedelta(seconds=400))

    assert "token is expired" in (await refusal(authenticator, call(token))).message


async def test_A08_a_corrupted_token_of_a_provider_is_refused_and_not_logged(trusting, token, caplog):
    with caplog.at_level(logging.DEBUG, "jumpstarter_controller"):
        refused = await refusal(trusting(), call(token[:-8] + "AAAAAAAA"))

    assert refused.code is Code.UNKNOWN
    assert "failed to verify signature" in refused.message
    assert token.split(".")[1] not in caplog.text


async def test_a_token_for_another_audience_is_refused(identity_provider, token, clock):
    with pytest.raises(Refused, match="another audience than someone-else"):
        await user(identity_provider, token, clock, issuer={"audiences": ["someone-else"]})


async def test_an_identity_token_counts_where_its_audience_is_listed(identity_provider, clock):
    tokens = await anyio.to_thread.run_sync(identity_provider.tokens, "alice")
    audiences = {"audiences": ["x", identity_provider.client_id], "audienceMatchPolicy": "MatchAny"}

    assert await user(identity_provider, tokens["id_token"], clock, issuer=audiences) == "dex:alice"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_providers_may_sign_with_both_kinds_of_keys(run_identity_provider, clock, algorithm):
    with run_identity_provider(algorithm=algorithm) as provider:
        token = await access_token(provider)

        assert unverified(token)[0]["alg"] == algorithm
        assert await user(provider, token, clock) == "dex:alice"


async def test_a_required_value_of_a_claim_is_required(identity_provider, token, clock):
    fitting = [{"claim": "email", "requiredValue": "alice@example.com"}]
    other = [{"claim": "email", "requiredValue": "bob@example.com"}]

    assert await user(identity_provider, token, clock, claimValidationRules=fitting)
    with pytest.raises(Refused, match="the claim email has not the value"):
        await user(identity_provider, token, clock, claimValidationRules=other)


async def test_an_address_that_the_provider_has_not_verified_is_no_name(identity_provider, token, clock):
    mail = {"claim": "email", "prefix": ""}
    bob = await access_token(identity_provider, "Bob.Builder")

    assert await user(identity_provider, token, clock, username=mail) == "alice@example.com"
    with pytest.raises(Refused, match="not verified the e-mail address"):
        await user(identity_provider, bob, clock, username=mail)


async def test_expressions_make_the_name_and_judge_claims_and_user(identity_provider, token, clock):
    values = {
        "username": {"expression": "'dex:' + claims.preferred_username.upperAscii()"},
        "claimValidationRules": [{"expression": "'developers' in claims.groups", "message": "developers only"}],
        "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "no system users"}],
    }
    bob = await access_token(identity_provider, "Bob.Builder")

    assert await user(identity_provider, token, clock, **values) == "dex:ALICE"
    with pytest.raises(Refused, match="developers only"):
        await user(identity_provider, bob, clock, **values)


async def test_a_rule_about_users_sees_groups_uid_and_extra(identity_provider, token, clock):
    settings = settings_of(identity_provider)
    settings["claimMappings"] |= {
        "groups": {"claim": "groups", "prefix": "dex:"},
        "uid": {"expression": "claims.sub"},
        "extra": [{"key": "example.com/mail", "valueExpression": "claims.email"}],
    }
    rule = (
        "user.groups == ['dex:developers'] && user.uid == 'alice' && "
        "user.extra['example.com/mail'] == ['alice@example.com']"
    )

    for expression, accepted in ((rule, True), (f"!({rule})", False)):
        settings["userValidationRules"] = [{"expression": expression}]
        providers = Providers([settings], clock)
        if accepted:
            assert await providers.verify(identity_provider.issuer, token)
        else:
            with pytest.raises(Refused, match="the user doesn't meet the rule"):
                await providers.verify(identity_provider.issuer, token)


async def test_a_claim_that_is_not_there_refuses_the_token_only(identity_provider, token, clock):
    with pytest.raises(Refused, match="can't be applied"):
        await user(identity_provider, token, clock, claimValidationRules=[{"expression": "claims.team == 'x'"}])
    with pytest.raises(Refused, match="gives no user name through team"):
        await user(identity_provider, token, clock, username={"claim": "team", "prefix": "dex:"})


@pytest.mark.parametrize("prefix", ["internal:", "own:"])
async def test_a_provider_can_not_make_users_that_look_like_the_servers_own(identity_provider, token, clock, prefix):
    reserved = ("internal:", "own:")
    mapping = {"expression": f"'{prefix}client:default:alice:' + claims.sub"}
    providers = Providers([settings_of(identity_provider, username=mapping)], clock, reserved=reserved)

    with pytest.raises(Refused) as caught:
        await providers.verify(identity_provider.issuer, token)

    assert caught.value.code is Code.PERMISSION_DENIED
    with pytest.raises(ConfigurationError, match="is for this server's tokens"):
        Providers(
            [settings_of(identity_provider, username={"claim": "sub", "prefix": prefix})], clock, reserved=reserved
        )


async def test_the_authority_of_a_provider_may_be_a_file_that_comes_later(identity_provider, token, clock, tmp_path):
    path = tmp_path / "ca.pem"
    settings = settings_of(identity_provider, issuer={"certificateAuthority": str(path)})
    providers = Providers([settings], clock)
    with pytest.raises(Refused, match="certificateAuthority can't be used"):
        await providers.verify(identity_provider.issuer, token)

    path.write_text(identity_provider.ca)
    clock.advance(timedelta(seconds=11))

    assert await providers.verify(identity_provider.issuer, token)


async def test_a_provider_that_another_authority_vouches_for_is_not_trusted(identity_provider, token, clock):
    providers = Providers([settings_of(identity_provider, issuer={"certificateAuthority": ""})], clock)

    with pytest.raises(Refused) as caught:
        await providers.verify(identity_provider.issuer, token)

    assert caught.value.code is Code.UNAVAILABLE
    assert "certificate" in caught.value.message.lower()


async def test_keys_stay_good_while_the_provider_is_away(run_identity_provider, clock, caplog):
    with run_identity_provider() as provider:
        first, second = await access_token(provider), await access_token(provider, "Bob.Builder")
        # Fetched again long before the tokens end.
        providers = Providers([settings_of(provider)], clock, intervals=Intervals(refresh=12))
        await providers.verify(provider.issuer, first)

        await anyio.to_thread.run_sync(provider.stop)
        clock.advance(timedelta(seconds=15))

        assert (await providers.verify(provider.issuer, second)).username == "dex:Bob.Builder"
        assert "the keys fetched before stay valid" in caplog.text


async def test_a_key_that_the_provider_withdrew_ends(run_identity_provider, clock):
    with run_identity_provider() as provider:
        first, second = await access_token(provider), await access_token(provider, "Bob.Builder")
        providers = Providers([settings_of(provider)], clock, intervals=Intervals(refresh=12))
        await providers.verify(provider.issuer, first)

        await anyio.to_thread.run_sync(provider.stop)
        await anyio.to_thread.run_sync(provider.start)
        clock.advance(timedelta(seconds=15))

        with pytest.raises(Refused, match="failed to verify signature"):
            await providers.verify(provider.issuer, second)


async def test_without_keys_a_provider_that_is_away_makes_its_users_try_again(run_identity_provider, clock):
    with run_identity_provider() as provider:
        token = await access_token(provider)
        await anyio.to_thread.run_sync(provider.stop)
        providers = Providers([settings_of(provider)], clock)

        with pytest.raises(Refused) as caught:
            await providers.verify(provider.issuer, token)
        assert caught.value.code is Code.UNAVAILABLE
        assert provider.issuer in caught.value.message

        await anyio.to_thread.run_sync(provider.start)
        clock.advance(timedelta(seconds=11))
        fresh = await access_token(provider)

        assert await providers.verify(provider.issuer, fresh)


async def test_a_new_key_is_fetched_when_it_is_first_seen_and_made_up_ones_cause_no_flood(run_identity_provider, clock):
    with run_identity_provider() as provider:
        old = await access_token(provider)
        providers = Providers([settings_of(provider)], clock)
        await providers.verify(provider.issuer, old)
        await anyio.to_thread.run_sync(provider.stop)
        await anyio.to_thread.run_sync(provider.start)
        new = await access_token(provider)

        with pytest.raises(Refused, match="failed to verify signature"):
            await providers.verify(provider.issuer, new)
        clock.advance(timedelta(seconds=11))

        assert await providers.verify(provider.issuer, new)


async def test_a_provider_that_hangs_keeps_nobody_else_waiting(identity_provider, token, lab, keys, add, token_for):
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        settings = settings_of(identity_provider, issuer={"discoveryURL": f"https://127.0.0.1:{port}/"})
        authenticator = Authenticator(lab, keys, Settings(jwt=(settings,)))
        local = await token_for(await add(Kind.CLIENT, "local"))
        asked = anyio.Event()

        async def hang(stream):
            async with stream:
                asked.set()
                await anyio.sleep_forever()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, hang)
                tasks.start_soon(refusal, authenticator, call(token))
                await asked.wait()

                actor = await authenticator.authenticate(call(local, "local"), PEER, Kind.CLIENT)

                tasks.cancel_scope.cancel()

    assert actor.key.name == "local"


async def test_a_user_who_was_here_costs_less_than_50_microseconds(trusting, token):
    authenticator = trusting(provisioning=True)
    metadata = call(token, "alice")
    await authenticator.authenticate(metadata, PEER, Kind.CLIENT)

    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(200):
            await authenticator.authenticate(metadata, PEER, Kind.CLIENT)
        best = min(best, (time.perf_counter() - started) / 200)

    print(f"{best * 1e6:.1f} us")
    assert best < 50e-6
