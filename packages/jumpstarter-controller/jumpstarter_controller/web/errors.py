"""How refusals are said over HTTP: a status, and the body that grpc-gateway has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from ..errors import Code, Refused
from ..services.errors import OWN_CODES, details

HTTP_STATUS: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""The mapping of google.rpc.Code, as grpc-gateway has it."""

CODES: Mapping[str, Code] = {
    **OWN_CODES,
    "ACCOUNT_UNKNOWN": Code.UNAUTHENTICATED,
    "CREDENTIALS_MISSING": Code.UNAUTHENTICATED,
    "EMPTY_LEASE_NAME": Code.INVALID_ARGUMENT,
    "EXPORTER_NOT_FOUND": Code.NOT_FOUND,
    "KIND_MISMATCH": Code.PERMISSION_DENIED,
    "LEASE_NOT_ACTIVE": Code.FAILED_PRECONDITION,
    "LEASE_NOT_FOUND": Code.NOT_FOUND,
    "METADATA_INVALID": Code.UNAUTHENTICATED,
    "METADATA_MISSING": Code.UNAUTHENTICATED,
    "NAMESPACE_MISMATCH": Code.PERMISSION_DENIED,
    "NOT_YOUR_LEASE": Code.PERMISSION_DENIED,
    "NO_ROUTER": Code.UNAVAILABLE,
    "TOKEN_EXPIRED": Code.UNAUTHENTICATED,
    "TOKEN_INVALID": Code.UNAUTHENTICATED,
    "TOKEN_REPLACED": Code.UNAUTHENTICATED,
}
"""What refusals mean by their reason, where they have codes that published gRPC peers expect."""


def meaning(error: Refused) -> Refused:
    """Return a refusal with the code that says what it means."""
    code = CODES.get(error.reason, error.code)
    return Refused(code, error.reason, error.message, error.metadata)


def refusal(error: Refused, status: int | None = None) -> web.Response:
    """Return the answer that says a refusal.

    Args:
        status: of HTTP, where the code has another one.
    """
    error = meaning(error)
    body = json_format.MessageToDict(details(error))
    found = status or HTTP_STATUS[error.code]
    headers = {"WWW-Authenticate": 'Bearer realm="jumpstarter"'} if found == 401 else {}
    return answer({"code": error.code.value, "message": body["message"], "details": body["details"]}, found, headers)


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON answer."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)
