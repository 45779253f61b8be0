"""Names, labels, tags and context entries: what may be called how."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import Code, Refused
from .records import OWN_LABEL_PREFIX, TAG_PREFIX
from .selector import InvalidSelector, check_key, check_value

MAXIMUM_CONTEXT = 8
"""Entries of the context of a lease."""

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def check_name(name: str, what: str) -> None:
    """Raise `Refused` unless this is a name as of RFC 1123, parts joined by dots.

    Args:
        what: of what it is the name, for the message.
    """
    if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
        raise Refused(
            Code.INVALID_ARGUMENT,
            "INVALID_NAME",
            f"{name[:260]!r} can't be the name of {what}: lower-case letters, digits and '-' are allowed, in parts of "
            "at most 63 characters joined by dots, with a letter or digit at both ends of each",
            {"name": name[:260]},
        )


def check_namespace(namespace: str) -> None:
    """Raise `Refused` unless this is the name of a namespace, one label as of RFC 1123."""
    if not _LABEL.fullmatch(namespace):
        raise Refused(
            Code.INVALID_ARGUMENT,
            "INVALID_NAMESPACE",
            f"{namespace[:80]!r} can't be the name of a namespace: 1 to 63 lower-case letters, digits and '-' are "
            "allowed, with a letter or digit at both ends",
            {"namespace": namespace[:80]},
        )


def check_labels(labels: Mapping[str, str], what: str) -> None:
    """Raise `Refused` unless all of these can be labels."""
    try:
        for key, value in labels.items():
            check_key(key)
            check_value(value, key)
    except InvalidSelector as error:
        raise Refused(Code.INVALID_ARGUMENT, "INVALID_LABEL", f"labels of {what}: {error}") from None


def check_tags(tags: Mapping[str, str], maximum: int) -> None:
    """Raise `Refused` unless a lease can have these tags."""
    if len(tags) > maximum:
        raise _bad_tag(f"{len(tags)} tags are more than the {maximum} that a lease may have")
    for key, value in tags.items():
        if key.startswith((OWN_LABEL_PREFIX, TAG_PREFIX)):
            raise _bad_tag(f"tag {key!r} begins with a prefix that is reserved")
        if "/" in key:
            raise _bad_tag(f"tag {key!r} has a '/', which no tag may have")
        try:
            check_key(TAG_PREFIX + key)
            check_value(value, key)
        except InvalidSelector as error:
            raise _bad_tag(f"tag {key[:80]!r}: {error}") from None


def check_context(context: Mapping[str, str]) -> None:
    """Raise `Refused` unless a lease can have this context."""
    if len(context) > MAXIMUM_CONTEXT:
        raise _bad_context(f"{len(context)} entries are more than the {MAXIMUM_CONTEXT} that a lease may have")
    for key, value in context.items():
        if not 1 <= len(key) <= 32 or len(value) > 64:
            raise _bad_context(f"entry {key[:40]!r}: a key has 1 to 32 characters, a value at most 64")
        if not (key + value).isprintable():
            raise _bad_context(f"entry {key!r} has characters that can't be printed")


def _bad_tag(text: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "INVALID_TAG", f"invalid tags: {text}")


def _bad_context(text: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "INVALID_CONTEXT", f"invalid context of the lease: {text}")
