"""What a cluster refuses, told in the words of a lab."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jumpstarter.common.exceptions import ConnectionError as CallError
from jumpstarter_kubernetes.exceptions import AlreadyExists, ClusterError, Conflict, NotFound

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")

UNKNOWN_KIND = "could not find the requested resource"
"""What API servers say of kinds that they don't know."""


def refusal(status: str, reason: str, message: str, hint: str | None = None) -> CallError:
    """Return an error like those that a lab's own server refuses calls with."""
    error = CallError(message)
    error.status, error.reason, error.hint = status, reason, hint
    return error


def check_name(name: str, what: str) -> None:
    """Raise unless objects may have that name (RFC 1123)."""
    if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
        raise refusal(
            "INVALID_ARGUMENT",
            "INVALID_NAME",
            f"{name[:260]!r} can't be the name of {what}: lower-case letters, digits and '-' are allowed, in parts of "
            "at most 63 characters joined by dots, with a letter or digit at both ends of each",
        )


def check_namespace(namespace: str) -> None:
    """Raise unless a namespace may have that name."""
    if not _LABEL.fullmatch(namespace):
        raise refusal(
            "INVALID_ARGUMENT",
            "INVALID_NAMESPACE",
            f"{namespace[:80]!r} can't be the name of a namespace: 1 to 63 lower-case letters, digits and '-' are "
            "allowed, with a letter or digit at both ends",
        )


@contextmanager
def told(kind: str, name: str, namespace: str) -> Iterator[None]:
    """Say of an object that the body asks for what is wrong with it.

    Args:
        kind: the word for it, such as `client`.
    """
    try:
        yield
    except NotFound as error:
        if error.details.get("kind") == "namespaces":
            raise refusal(
                "NOT_FOUND",
                "NAMESPACE_NOT_FOUND",
                f"there is no namespace {namespace!r} in the cluster (NotFound)",
                f"Choose another one with -n, or make it: kubectl create namespace {namespace}",
            ) from None
        if UNKNOWN_KIND in str(error):
            raise
        raise refusal(
            "NOT_FOUND",
            f"{kind.upper()}_NOT_FOUND",
            f"{kind} {name!r} not found in namespace {namespace!r} (NotFound)",
            "`jmp admin get` lists what there is; -A looks into all namespaces, -n NAMESPACE into another one.",
        ) from None
    except AlreadyExists:
        raise refusal(
            "ALREADY_EXISTS", "ALREADY_EXISTS", f"{kind} {name!r} exists already in namespace {namespace!r}"
        ) from None
    except Conflict as error:
        raise refusal(
            "ABORTED",
            "CHANGED_MEANWHILE",
            f"{kind} {name!r} in namespace {namespace!r} was changed meanwhile",
            "Look at it again, and repeat what you want to change.",
        ) from error


__all__ = ["CallError", "ClusterError", "check_name", "check_namespace", "refusal", "told"]
