"""Whom the token of a connection speaks of."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from .callers import OWNER, Caller, Role, caller_of


def token(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2lnbmF0dXJl"


@pytest.mark.parametrize("role", list(Role))
def test_the_claims_name_client_and_role(role: Role) -> None:
    assert caller_of(token({"client": "alice", "role": str(role), "lease": "default/x"})) == Caller("alice", role)


@pytest.mark.parametrize("given", ["stream-1", "", token({"sub": "x", "iss": "https://jumpstarter.dev/stream"})])
def test_tokens_that_name_nobody_are_those_of_the_owner(given: str) -> None:
    assert caller_of(given) == OWNER


@pytest.mark.parametrize(
    "given",
    [
        "a.!.c",
        "a.bm90IGpzb24.c",
        token(["a list"]),
        token({"client": "alice", "role": "admin"}),
        token({"client": "alice", "role": ["owner"]}),
        token({"client": 7, "role": "owner"}),
        token({"client": "a\nb", "role": "owner"}),
        token({"client": "a" * 300, "role": "owner"}),
        token({"client": "alice", "role": "owner", "pad": "x" * 20_000}),
        token({"deep": json.loads("[" * 400 + "]" * 400), "role": "boss"}),
    ],
)
def test_what_can_not_be_read_or_is_not_known_gets_the_least_role(given: str) -> None:
    assert caller_of(given).role is Role.WATCHER
