"""The annotated rpcs over HTTP with JSON: the same services, accounts and rules as over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler
from google.protobuf.message import Message

from ..errors import Code, Refused
from .connections import BODY_LIMIT
from .errors import answer, refusal
from .transcoding import Binding, bindings, to_json

if TYPE_CHECKING:
    from ..services.rpc import Guard

PREFIX = "/v1/"

PASSED_ON = ("authorization", "jumpstarter-kind", "jumpstarter-namespace", "jumpstarter-name")
"""Headers that say who calls; the token is enough, unless it leaves open whose it is."""

BODY_SECONDS = 10.0
"""For how long a body may take to come."""


def add_routes(application: web.Application, guard: Guard, services: Sequence[Any]) -> tuple[Binding, ...]:
    """Serve the annotated rpcs of services, given by their descriptors, and return them."""
    application.middlewares.append(_say_refusals)
    found = bindings(*services)
    for binding in found:
        application.router.add_route(
            binding.verb, binding.route, partial(_serve, binding, guard.invoke), name=_name(binding)
        )
    return found


def caller(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Return the metadata of the call that a request is."""
    given = ((name, value) for name in PASSED_ON for value in request.headers.getall(name, ()))
    # Never empty, which would mean a broken peer and not one without a token.
    return (("via", "http"), *given)


async def _serve(
    binding: Binding, invoke: Callable[..., Awaitable[Message]], request: web.Request
) -> web.StreamResponse:
    body = await read_body(request) if binding.body else b""
    message = binding.request(request.match_info, list(request.query.items()), body)
    found = await invoke(binding.rpc, message, caller(request), request.remote or "")
    return answer(to_json(found), headers={"Cache-Control": "no-store"})


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: it is too large, comes too slowly, or is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(Code.INVALID_ARGUMENT, "BODY_ENCODED", "send the body as it is, without Content-Encoding")
    try:
        with anyio.fail_after(BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refused(
            Code.INVALID_ARGUMENT, "BODY_TOO_LARGE", f"the body has more than {BODY_LIMIT} bytes, the most there may be"
        ) from None
    except TimeoutError:
        raise Refused(
            Code.DEADLINE_EXCEEDED, "BODY_TOO_SLOW", f"the body did not come within {BODY_SECONDS:g} s"
        ) from None


STATUS_OF = {"BODY_ENCODED": 415, "BODY_TOO_LARGE": 413, "BODY_TOO_SLOW": 408, "NO_SUCH_PATH": 404, "WRONG_VERB": 405}
"""Statuses of HTTP by reason that say more than that of the code."""


@web.middleware
async def _say_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer refusals, also those of the HTTP server itself, in the form of the API below its prefix."""
    try:
        return await handler(request)
    except Refused as error:
        return refusal(error, STATUS_OF.get(error.reason))
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        if not request.path.startswith(PREFIX):
            raise
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(error.allowed_methods))
            told = Refused(Code.UNIMPLEMENTED, "WRONG_VERB", f"this path takes {allowed}, not {error.method[:20]}")
            response = refusal(told, STATUS_OF[told.reason])
            response.headers["Allow"] = allowed
            return response
        text = "there is no such path; /openapi.json describes those there are"
        return refusal(Refused(Code.NOT_FOUND, "NO_SUCH_PATH", text), STATUS_OF["NO_SUCH_PATH"])


def _name(binding: Binding) -> str:
    return binding.rpc.strip("/").replace("/", ".")
