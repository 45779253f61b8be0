"""Who is at the other end of a connection, and what they may do: read from the token that the connection came with."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["OWNER", "ROLES_LABEL", "Caller", "Role", "caller_of"]

ROLES_LABEL = "jumpstarter.dev/roles"
"""Label by which an exporter tells the controller, with the value `1`, that it keeps watchers from driving."""

LONGEST_TOKEN = 16384
"""Characters of a token that is looked into."""

LONGEST_NAME = 253
"""Characters of a client's name, as controllers allow them (RFC 1123 subdomains)."""


class Role(StrEnum):
    """What a client may do with a lease, as the claim `role` of stream tokens has it."""

    OWNER = "owner"
    """Everything; also end the session."""
    DRIVER = "driver"
    """Use the devices."""
    WATCHER = "watcher"
    """Look on: reports, status, logs, and methods that drivers mark as harmless."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of a lease."""

    client: str = ""
    """Plain name; empty when the controller doesn't tell."""
    role: Role = Role.OWNER


OWNER = Caller()
"""Whoever controllers send that tell nothing: they let nobody but the owner of a lease in."""


def caller_of(token: str) -> Caller:
    """Return whom a stream token speaks of.

    The token came from the controller, for which it is a secret shared with the router alone, so there is nothing to
    verify it with here. Tokens of published controllers name nobody, and they needn't be JWTs (RFC 7519) either. A
    role that isn't known, or a token that can't be read, is taken for the least.
    """
    claims = _claims(token)
    if claims is None:
        return Caller(role=Role.WATCHER)
    client, role = claims.get("client", ""), claims.get("role", Role.OWNER)
    if not isinstance(client, str) or len(client) > LONGEST_NAME or not client.isprintable():
        return Caller(role=Role.WATCHER)
    try:
        return Caller(client, Role(role))
    except ValueError:
        return Caller(client, Role.WATCHER)


def _claims(token: str) -> dict[str, Any] | None:
    """Return the claims of a JWT, none when it is something else, or None when it can't be read."""
    if len(token) > LONGEST_TOKEN:
        return None
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None
