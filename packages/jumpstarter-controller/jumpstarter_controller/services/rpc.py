"""Serves the methods of services: each call is authenticated, checked by the table of access, and answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ..errors import Code, Refused
from ..lab import Actor
from ..model.records import Key, Kind
from ..store.base import StoreError, Unavailable
from . import errors
from .access import ACCESS, Access, check_namespace, parse_key, parse_namespace

logger = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str | bytes]]

SWEEP = 5.0
"""Seconds between two looks at whether those who hold streams open still may."""


class Authenticates(Protocol):
    """What finds out who calls, see `identity.authenticate.Authenticator`."""

    async def authenticate(
        self, metadata: Metadata, peer: str, expected: Kind | Collection[Kind], *, complete: bool = False
    ) -> Actor:
        """Return who calls, or raise `Refused`."""
        ...

    def reauthorize(self, actor: Actor) -> None:
        """Raise `Refused` unless somebody who was let in would still be."""
        ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call by somebody who may make it."""

    rpc: str
    """Name of the method alone."""
    actor: Actor
    context: Any
    target: Key | None = None
    """What the name in the request names, of the caller's namespace."""

    @property
    def caller(self) -> Key:
        """Who calls."""
        assert self.actor.key is not None
        return self.actor.key

    @property
    def namespace(self) -> str:
        """Namespace of the caller."""
        return self.caller.namespace

    @property
    def named(self) -> Key:
        """What the request names."""
        assert self.target is not None
        return self.target

    async def write(self, message: Message) -> None:
        """Send the next message of an answer in a stream."""
        await self.context.write(message)


@dataclass(eq=False)
class _Stream:
    actor: Actor
    scope: anyio.CancelScope
    refusal: Refused | None = None


@dataclass
class Guard:
    """Turns objects with one method per rpc into handlers of a gRPC server.

    A method takes a `Call` and the request, or an iterator over requests, and returns the answer; those that answer in
    a stream write to the call and return nothing.
    """

    authenticator: Authenticates
    _streams: set[_Stream] = field(default_factory=set, init=False)
    _closing: bool = field(default=False, init=False)
    _targets: dict[str, Callable[..., Awaitable[Any]]] = field(default_factory=dict, init=False)

    def handlers(self, service: Any, servicer: object) -> grpc.GenericRpcHandler:
        """Return handlers of all methods of a service (its descriptor) that the servicer has and the table lists."""
        methods = {}
        for method in service.methods:
            access = ACCESS.get(f"/{service.full_name}/{method.name}")
            target = getattr(servicer, method.name, None)
            if access is not None and target is not None:
                self._targets[f"/{service.full_name}/{method.name}"] = target
                methods[method.name] = self._handler(method, access, target)
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    def _handler(self, method: Any, access: Access, target: Callable[..., Awaitable[Any]]) -> Any:
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        serve = partial(self._serve, f"/{method.containing_service.full_name}/{method.name}", access, target)

        async def unary(request: Any, context: Any) -> Any:
            return await serve(request, context, endless=False)

        async def streaming(request: Any, context: Any) -> None:
            await serve(request, context, endless=True)

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            streaming if method.server_streaming else unary,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    async def invoke(self, method: str, request: Any, metadata: Metadata, peer: str) -> Any:
        """Answer a call of a method with one request and one answer that did not come over gRPC.

        Args:
            method: full name, `/package.Service/Method`.
            metadata: may lack all but the token.

        Raises:
            Refused: as the lab and the services say it, not in the words for published peers.
        """
        try:
            if self._closing:
                raise _stopping()
            access = ACCESS[method]
            actor = await self.authenticator.authenticate(metadata, peer, access.kinds, complete=True)
            with errors.only_refusal():
                return await self._targets[method](_admitted(method, access, request, actor, None), request)
        except Refused:
            raise
        except Exception as error:
            raise _refusal_of(method, error) from error

    async def keep_watch(self, interval: float = SWEEP) -> None:
        """End the streams of those whose account or token has lost its right, until cancelled."""
        while True:
            await anyio.sleep(interval)
            for number, stream in enumerate(list(self._streams)):
                if number % 100 == 99:
                    await anyio.lowlevel.checkpoint()
                try:
                    self.authenticator.reauthorize(stream.actor)
                except Refused as error:
                    stream.refusal = errors.Said(error.code, error.reason, error.message, error.metadata)
                    stream.scope.cancel()

    def close(self) -> None:
        """End all streams in a way that has peers connect again; further calls are refused."""
        self._closing = True
        for stream in list(self._streams):
            stream.scope.cancel()

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def _serve(
        self,
        method: str,
        access: Access,
        target: Callable[..., Awaitable[Any]],
        request: Any,
        context: Any,
        *,
        endless: bool,
    ) -> Any:
        rpc = method.rpartition("/")[2]
        try:
            if self._closing:
                raise _stopping()
            call = await self._admit(method, access, request, context)
            with errors.only_refusal():
                if not endless:
                    return await target(call, request)
                await self._stream(target, call, request)
                return None
        except Refused as error:
            refusal = errors.published(rpc, error) if access.published else errors.own(error)
        except Exception as error:  # noqa: BLE001 (whatever a handler fails with, the peer gets an answer)
            if context.done() and not isinstance(error, StoreError):
                logger.debug("%s: the caller went away: %r", method, error)
                return None
            refusal = _refusal_of(method, error)
        await errors.abort(context, refusal)

    async def _stream(self, target: Callable[..., Awaitable[Any]], call: Call, request: Any) -> None:
        with anyio.CancelScope() as scope:
            stream = _Stream(call.actor, scope)
            self._streams.add(stream)
            try:
                await target(call, request)
            finally:
                self._streams.discard(stream)
        if scope.cancelled_caught:
            raise stream.refusal or _stopping()

    async def _admit(self, method: str, access: Access, request: Any, context: Any) -> Call:
        metadata: Metadata = context.invocation_metadata() or ()
        try:
            actor = await self.authenticator.authenticate(metadata, context.peer(), access.kinds)
        except Refused as error:
            # Said in the words of the published server already, or not meant for its peers.
            raise errors.Said(error.code, error.reason, error.message, error.metadata) from None
        return _admitted(method, access, request, actor, context)


def _admitted(method: str, access: Access, request: Any, actor: Actor, context: Any) -> Call:
    """Return the call of somebody who was let in, if the name in the request is of the own namespace."""
    assert actor.key is not None
    target = None
    if access.field:
        text = reduce(getattr, access.field.split("."), request)
        if access.collection is None:
            check_namespace(parse_namespace(text), actor.key)
        else:
            target = parse_key(text, access.collection)
            check_namespace(target.namespace, actor.key)
    return Call(rpc=method.rpartition("/")[2], actor=actor, context=context, target=target)


def _refusal_of(method: str, error: Exception) -> Refused:
    """Return what the peer is told of an error that is no refusal."""
    if isinstance(error, Unavailable):
        return Refused(Code.UNAVAILABLE, "STORE_UNAVAILABLE", str(error))
    if isinstance(error, StoreError):
        return Refused(Code.ABORTED, "STORE_CONFLICT", f"{error}; try again")
    return errors.failure(method, error)


def _stopping() -> errors.Said:
    return errors.Said(Code.UNAVAILABLE, "STOPPING", "the controller is stopping; connect again in a moment")
