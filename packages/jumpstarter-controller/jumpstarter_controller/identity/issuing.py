"""Giving an account a token, which takes two steps that others may come between: sign, and remember."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from ..errors import Code, Refused
from ..lab import Actor, Lab
from ..model.records import Account, Exporter, Key
from .tokens import Tokens, described

ATTEMPTS = 5
"""How often the account may have been changed by somebody else meanwhile."""


async def issue_token(
    lab: Lab,
    tokens: Tokens,
    actor: Actor,
    key: Key,
    *,
    life: timedelta | None = None,
    grace: timedelta | None = None,
) -> tuple[str, Account | Exporter]:
    """Give an account a new token, and return it with the account as it is then.

    Args:
        actor: on whose behalf.
        life: how long it lasts; None for what the settings say.
        grace: for how long the former token is still accepted; None for what the settings say, zero ends it at once.

    Raises:
        Refused: NOT_FOUND, there is no such account; ABORTED, others keep changing it.
    """
    for attempt in range(1, ATTEMPTS + 1):
        account = lab.account(key)
        if account is None:
            raise Refused(Code.NOT_FOUND, "ACCOUNT_UNKNOWN", f"{described(key)} not found")
        token, credential = tokens.issue(account, life=life, grace=grace)
        try:
            changed = await lab.update_account(actor, dataclasses.replace(account, credential=credential))
        except Refused as refused:
            if refused.code is not Code.ABORTED or attempt == ATTEMPTS:
                raise
            continue
        if lab.token_keeper is not None:
            await lab.token_keeper(key, token)
        return token, changed
    raise AssertionError("unreachable")
