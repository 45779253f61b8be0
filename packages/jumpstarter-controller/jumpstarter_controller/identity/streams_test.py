"""Stream tokens as published controllers and routers exchange them."""

import json
import time
import uuid
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from ..errors import Code, Refused
from .keys import StreamKeys
from .streams import AUDIENCE, ISSUER, LEEWAY, StreamTokens
from .tokens import unverified

KEY = b"k" * 32


@pytest.fixture
def tokens(clock):
    return StreamTokens(StreamKeys([KEY]), clock)


def published(clock, key=KEY, algorithm="HS256", **changes):
    """A token as a published controller issues it, with other claims where a test says so."""
    now = int(clock.now().timestamp())
    claims = {"iss": ISSUER, "aud": [AUDIENCE], "sub": "stream", "iat": now, "nbf": now, "exp": now + 1800, **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": algorithm}, kept, OctKey.import_key(key), algorithms=[algorithm])


def refusal(tokens, token):
    with pytest.raises(Refused) as caught:
        tokens.verify(token)
    assert caught.value.code is Code.UNAUTHENTICATED
    return caught.value.message


def test_a_token_has_the_claims_that_published_routers_look_at(tokens, clock):
    header, claims = unverified(tokens.issue())

    now = int(clock.now().timestamp())
    assert header["alg"] == "HS256"
    assert (claims["iss"], claims["aud"]) == (ISSUER, [AUDIENCE])
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (now, now, now + 30 * 60)
    assert uuid.UUID(claims["sub"])
    assert uuid.UUID(claims["jti"])


def test_X01_a_valid_token_names_lease_client_exporter_role_and_side(tokens):
    token = tokens.issue("s", lease="l", client="c", exporter="e", role="watcher", side="client")

    found = tokens.verify(token)

    assert (found.stream, found.lease, found.client, found.exporter) == ("s", "l", "c", "e")
    assert (found.role, found.side) == ("watcher", "client")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_of_a_published_controller_is_accepted(tokens, clock, algorithm):
    # Published controllers take any key, so that it is as long as the algorithm wants here.
    key = b"k" * 64
    tokens = StreamTokens(StreamKeys([key]), clock)

    assert tokens.verify(published(clock, key, algorithm)).stream == "stream"


def test_a_token_of_a_former_key_is_accepted(clock):
    old = StreamTokens(StreamKeys([KEY]), clock).issue("s")

    assert StreamTokens(StreamKeys([b"n" * 32, KEY]), clock).verify(old).stream == "s"


@pytest.mark.parametrize("seconds", [-5, 5])
def test_clocks_may_differ_by_some_seconds(tokens, clock, seconds):
    token = published(clock, exp=int(clock.now().timestamp()) + 60)

    clock.advance(timedelta(seconds=60 if seconds > 0 else 0))
    clock.step(timedelta(seconds=seconds))

    assert tokens.verify(token).stream == "stream"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iss": "https://else.where"}, "the issuer differs"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"sub": ""}, "names no stream"),
        ({"sub": 5}, "wrong type"),
        ({"exp": None}, "token is expired"),
        ({"exp": "soon"}, "wrong type"),
        ({"exp": float("nan")}, "token is expired"),
        ({"nbf": 1 << 40}, "not valid yet"),
        ({"iat": 1 << 40}, "not valid yet"),
        ({"role": ["owner"]}, "wrong type"),
    ],
)
def test_a_token_with_wrong_claims_is_refused_with_the_reason(tokens, clock, changes, words):
    message = refusal(tokens, published(clock, **changes))

    assert message.startswith("invalid jwt token: ")
    assert words in message


def test_a_token_ends(tokens, clock):
    token = tokens.issue(life=timedelta(minutes=1))

    clock.advance(timedelta(minutes=1) + LEEWAY)

    assert "token is expired" in refusal(tokens, token)


def test_X01_a_foreign_token_is_refused_without_being_quoted(tokens, clock):
    token = published(clock, b"x" * 32)

    message = refusal(tokens, token)

    assert "signature" in message
    assert not any(part in message for part in token.split("."))


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "." * 100, "é" * 10, "x" * 100_000])
def test_X01_what_is_no_token_is_refused(tokens, token):
    assert refusal(tokens, token)


def test_a_token_without_signature_is_refused(tokens, clock):
    import base64

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = unverified(published(clock))[1]

    assert refusal(tokens, f"{part({'alg': 'none'})}.{part(dict(claims))}.")


def test_verification_costs_little(tokens):
    token = tokens.issue("s", lease="l", client="c", exporter="e", role="owner", side="client")
    tokens.verify(token)

    started = time.perf_counter()
    for _ in range(200):
        tokens.verify(token)

    assert (time.perf_counter() - started) / 200 < 0.001
