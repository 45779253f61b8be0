"""How refusals and failures are said over gRPC: a status that published peers understand, and ErrorInfo for ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

import grpc

from ..errors import DOMAIN, Code, Refused

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

logger = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that holds a `google.rpc.Status`, as all gRPC implementations have it."""

LONGEST_MESSAGE = 2000
LONGEST_VALUE = 256
"""Characters of a message and of a value of the metadata; peers take 8 KiB of trailing metadata in all."""

STATUS = {code: status for status in grpc.StatusCode for code in Code if status.value[0] == code.value}
"""Code to status of grpc."""


class Said(Refused):
    """A refusal that has the code and the words for the peers of its rpc already."""


@dataclass(frozen=True)
class Wording:
    """How a refusal is said to published peers."""

    code: Code
    begin: str = ""
    """What the text has to begin with, unless it holds it anyway; with the fields `rpc` and `message`."""


PLAIN = frozenset(
    {
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.ABORTED,
        Code.OUT_OF_RANGE,
        Code.RESOURCE_EXHAUSTED,
    }
)
"""Codes of rules and of the store that published services answer as UNKNOWN.

Published clients show the details of UNKNOWN and UNAVAILABLE in one clean line, those of other codes as a cause.
"""

BY_CODE: Mapping[Code, Wording] = {
    Code.PERMISSION_DENIED: Wording(Code.UNKNOWN, "{rpc} permission denied"),
    Code.ALREADY_EXISTS: Wording(Code.UNKNOWN, "already exists"),
    Code.NOT_FOUND: Wording(Code.UNKNOWN, "not found"),
}
"""Words that published peers and scripts look for in refusals of published services."""

BY_RPC: Mapping[tuple[str, Code], Wording] = {
    ("DeleteLease", Code.FAILED_PRECONDITION): Wording(Code.FAILED_PRECONDITION),
    ("Dial", Code.PERMISSION_DENIED): Wording(Code.UNKNOWN, "permission denied"),
    ("Dial", Code.FAILED_PRECONDITION): Wording(Code.FAILED_PRECONDITION),
    ("Dial", Code.RESOURCE_EXHAUSTED): Wording(Code.RESOURCE_EXHAUSTED),
    # Exporters of 0.9 take some codes of this rpc for "unknown to the controller", so none of those is ever an answer.
    ("ReleaseLease", Code.NOT_FOUND): Wording(Code.NOT_FOUND),
    ("ReleaseLease", Code.FAILED_PRECONDITION): Wording(Code.FAILED_PRECONDITION),
    ("Register", Code.RESOURCE_EXHAUSTED): Wording(Code.RESOURCE_EXHAUSTED),
}
"""Exceptions from PLAIN and BY_CODE, by rpc."""

OWN_CODES: Mapping[str, Code] = {
    "ALREADY_EXISTS": Code.ALREADY_EXISTS,
    "INVALID_SELECTOR": Code.INVALID_ARGUMENT,
    "INVALID_TIMES": Code.INVALID_ARGUMENT,
    "IS_OWNER": Code.FAILED_PRECONDITION,
    "LEASE_ENDED": Code.FAILED_PRECONDITION,
    "NOT_BEGUN": Code.FAILED_PRECONDITION,
    "NOT_FOUND": Code.NOT_FOUND,
    "NOT_HELD": Code.FAILED_PRECONDITION,
    "NOT_OWNER": Code.PERMISSION_DENIED,
    "NO_ACCESS": Code.PERMISSION_DENIED,
    "NO_SUCH_CLIENT": Code.NOT_FOUND,
}
"""What services without published peers answer where the lab, for those peers, says UNKNOWN; by reason."""

REASONS: Mapping[str, str] = {"NOT_OWNER": "NOT_YOUR_LEASE", "NOT_HELD": "NOT_YOUR_LEASE"}
"""Reasons of the lab by other names, where services find the same by themselves."""


def published(rpc: str, error: Refused) -> Refused:
    """Return a refusal as a published rpc says it.

    Args:
        rpc: name of the method alone.
        error: of the lab, or one that is `Said` already, which stays as it is.
    """
    if isinstance(error, Said):
        return error
    wording = BY_RPC.get((rpc, error.code)) or BY_CODE.get(error.code)
    if wording is None:
        wording = Wording(Code.UNKNOWN if error.code in PLAIN else error.code)
    begin = wording.begin.format(rpc=rpc)
    message = error.message if begin.lower() in error.message.lower() else f"{begin}: {error.message}"
    return Said(wording.code, _reason(error), message, error.metadata)


def own(error: Refused) -> Refused:
    """Return a refusal as the services say it that have no published peers."""
    if isinstance(error, Said):
        return error
    code = OWN_CODES.get(error.reason, error.code) if error.code is Code.UNKNOWN else error.code
    return Said(code, _reason(error), error.message, error.metadata)


def _reason(error: Refused) -> str:
    if error.reason == "NOT_FOUND" and "lease" in error.metadata:
        return "LEASE_NOT_FOUND"
    return REASONS.get(error.reason, error.reason)


def details(error: Refused) -> Status:
    """Return a refusal as a `google.rpc.Status` with a `google.rpc.ErrorInfo`."""
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    status = Status(code=error.code.value, message=_cut(error.message, LONGEST_MESSAGE))
    metadata = {key: _cut(value, LONGEST_VALUE) for key, value in list(error.metadata.items())[:8]}
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    return status


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


async def abort(context: grpc.aio.ServicerContext, error: Refused) -> NoReturn:
    """End a call with a refusal."""
    status = details(error)
    await context.abort(STATUS[error.code], status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort returned")


def failure(method: str, error: BaseException) -> Refused:
    """Log an error that nobody foresaw, and return what the peer is told of it."""
    incident = uuid4().hex[:12]
    logger.error("%s failed, incident %s", method, incident, exc_info=error)
    return Said(
        Code.INTERNAL,
        "INTERNAL",
        f"the controller failed at this request; its log tells more of incident {incident}",
        {"incident": incident},
    )


@contextmanager
def only_refusal() -> Iterator[None]:
    """Take refusals out of the groups that task groups put them into."""
    try:
        yield
    except BaseExceptionGroup as group:
        refusals, rest = group.split(Refused)
        if rest is not None or refusals is None:
            raise
        found: BaseException = refusals
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None
