"""Tells a caller of a gRPC method that it is refused, in words for users and in words for programs."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from ..errors import DOMAIN, Refused

CODES = {code.value[0]: code for code in grpc.StatusCode}


async def abort(context: Any, refused: Refused) -> NoReturn:
    """End a call with the status, and with `google.rpc.ErrorInfo` (AIP-193) in the trailing metadata."""
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    status = Status(code=refused.code.value, message=refused.message)
    status.details.add().Pack(ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata))
    await context.abort(
        CODES[refused.code.value],
        refused.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returned")
