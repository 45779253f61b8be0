"""Refusals, in the form that API servers answer with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Cause = dict[str, str]


class Refusal(Exception):
    """A request that is not carried out."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        name: str = "",
        group: str = "",
        kind: str = "",
        causes: Sequence[Cause] = (),
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        details: dict[str, Any] = {"name": name, "group": group, "kind": kind, "causes": list(causes)}
        if retry_after:
            details["retryAfterSeconds"] = retry_after
        self.retry_after = retry_after
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": {key: value for key, value in details.items() if value},
            "code": code,
        }


def not_found(full_name: str, name: str, group: str = "") -> Refusal:
    """Return the refusal of a request for an object that isn't there."""
    plural = full_name.partition(".")[0]
    return Refusal(404, "NotFound", f'{full_name} "{name}" not found', name=name, group=group, kind=plural)


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refusal:
    """Return the refusal of an object that breaks rules."""
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    full = f"{kind}.{group}" if group else kind
    return Refusal(
        422, "Invalid", f'{full} "{name}" is invalid: {joined}', name=name, group=group, kind=kind, causes=causes
    )
