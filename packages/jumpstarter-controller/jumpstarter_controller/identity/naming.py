"""From the name of a user at a login provider to the name of the client that is theirs.

Published peers derive nothing themselves, but tools that make configs for them rely on these rules.
"""

from __future__ import annotations

import re

MAX_NAME = 63
"""Longest name of an account: that of a DNS label (RFC 1123)."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def is_service_account(username: str) -> bool:
    """Tell whether a username is that of a Kubernetes service account: `PROVIDER:system:serviceaccount:NS:NAME`."""
    parts = username.split(":")
    return len(parts) >= 5 and parts[1:3] == ["system", "serviceaccount"]


def derive_name(username: str) -> str:
    """Return the name of the account of a user, empty when nothing of the username can be used.

    The part up to the first colon, the prefix of the provider, doesn't count, so that users of two providers with
    equal names get the same name; which of them has the account is decided by its username.

    >>> derive_name("dex:Test.User@Example.com")
    'test-user-example-com'
    """
    if is_service_account(username):
        rest = username.split(":", 3)[3]
    else:
        prefix, colon, after = username.partition(":")
        rest = after if colon else prefix
    name = re.sub(r"-+", "-", re.sub(r"[^-a-z0-9]", "-", rest.lower()))
    name = name.removeprefix("-").removesuffix("-")
    return name[:MAX_NAME].removesuffix("-")


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of an account (RFC 1123 label)."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None
