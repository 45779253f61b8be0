"""What to do about the refusals of a controller, by the reason that it gives with them."""

from __future__ import annotations

_LOG_IN = "Log in again with `jmp login`; `jmp auth status` shows the present token."
_LEASES = "`jmp get leases -A` lists the leases of all clients, with -a also those that have ended."
_AGAIN = "Try again in a moment."
_RENEW = "Request a new one with `jmp create lease` or `jmp shell`."
_WHO = "An administrator can look at the accounts with `jmp admin get client`."

HINTS = {
    "ACCOUNT_DISABLED": _WHO,
    "ACCOUNT_UNKNOWN": _WHO,
    "CHANGED_MEANWHILE": _AGAIN,
    "EXPORTER_NOT_FOUND": "`jmp get exporters` lists the exporters.",
    "EXPORTER_NOT_LISTENING": _AGAIN,
    "EXPORTER_NOT_READY": _AGAIN,
    "EXPORTER_OFFLINE": "`jmp get exporters -o wide` shows which are online, and when the others were last seen.",
    "IDENTITY_MISMATCH": _LOG_IN,
    "INVALID_SELECTOR": "Write it as `key=value`, `key!=value`, `key in (a,b)`, `key` or `!key`, comma-separated.",
    "KIND_MISMATCH": "The token belongs to another kind of account: an exporter's does not serve a client.",
    "LEASE_ENDED": _RENEW,
    "LEASE_NOT_ACTIVE": _RENEW,
    "LEASE_NOT_FOUND": _LEASES,
    "LEASE_RELEASED": _RENEW,
    "NAMESPACE_MISMATCH": "Check metadata.namespace in the client config.",
    "NAME_MISMATCH": _LOG_IN,
    "NOT_YOUR_LEASE": "Its owner can share it with `jmp update lease NAME --share CLIENT`, or hand it over with "
    "--to-client.",
    "NO_ACCESS": "`jmp get exporters` shows exporters and labels; an administrator decides who may have which.",
    "NO_ROUTER": _AGAIN,
    "PROVIDER_UNAVAILABLE": _AGAIN,
    "ROUTER_STOPPING": _AGAIN,
    "STORE_CONFLICT": _AGAIN,
    "STORE_UNAVAILABLE": _AGAIN,
    "TOKEN_EXPIRED": _LOG_IN,
    "TOKEN_INVALID": _LOG_IN,
    "TOKEN_MALFORMED": _LOG_IN,
    "TOKEN_MISSING": _LOG_IN,
    "TOKEN_REPLACED": _LOG_IN,
    "TOO_LONG": "Ask for less with --duration.",
    "TOO_MANY_LEASES": "Release one that is not needed: `jmp get leases`, `jmp delete lease NAME`.",
    "TOO_MANY_WAITING": _AGAIN,
}
"""Hints by the reason in `google.rpc.ErrorInfo`; a reason without one explains itself."""


def reason_word(reason: str) -> str:
    """Return the reason in the form that failures as objects have: `no-access` for `NO_ACCESS`."""
    return reason.lower().replace("_", "-")
