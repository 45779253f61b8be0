"""`jumpstarter.v1.RouterService`: finds for each caller the one with the same stream, and relays between them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from ..errors import Code, Refused
from ..identity.keys import STREAM_TOKEN_LIFE
from ..identity.streams import StreamClaims
from ..services.errors import abort
from .relay import END_KEY, Call, End, Joint

METHOD = "/jumpstarter.v1.RouterService/Stream"
REMEMBERED = STREAM_TOKEN_LIFE.total_seconds() + 60
"""Seconds after which a token that was used has surely expired."""
STOP_TIMEOUT = 5.0
"""Seconds that calls which were told to end get for it."""

Verify = Callable[[str], StreamClaims]
"""Returns the claims of a token, or raises `Refused` with UNAUTHENTICATED, as `StreamTokens.verify` does."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may ask of a router."""

    wait: float = 60.0
    """Seconds after which a caller whose other end doesn't come is sent home."""
    waiting: int = 4096
    """Callers that wait at one time."""
    waiting_per_lease: int = 256
    remembered: int = 200_000
    """Tokens that are remembered as used or cut until they expire; beyond that the oldest are forgotten."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a router does and has done."""

    streams: int
    """Open now."""
    waiting: int
    """Callers without their other end."""
    streams_total: int
    bytes_total: int
    """Bytes of frames that were passed on, both ways."""
    bytes_by_side: Mapping[str, int]
    """The same by the claim `side` of the sender."""
    ended_total: Mapping[str, int]
    """Calls that did not end by themselves, by the reason (a value of `End`)."""
    refused_total: int


class Relay(grpc.GenericRpcHandler):
    """The generic handler of the service, to be added to any `grpc.aio` server whose loop is the running one.

    Args:
        verify: is called once per call, with its bearer token.
        limits: see there.
    """

    def __init__(self, verify: Verify, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._verify = verify
        self._handler = grpc.stream_stream_rpc_method_handler(self._stream)
        self._calls: set[Call] = set()
        self._by_lease: dict[str, set[Call]] = {}
        self._waiting: dict[str, Call] = {}
        self._waiting_of: Counter[str] = Counter()
        self._joints: set[Joint] = set()
        self._spent = _Spent(self.limits.remembered)
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams_total = 0
        self._bytes: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._refused = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of the one method there is; without serializers frames stay bytes."""
        return self._handler if handler_call_details.method == METHOD else None

    # -- looking -----------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether it takes no new streams."""
        return self._draining

    def counters(self) -> Counters:
        """Return the figures of this moment."""
        by_side = self._bytes.copy()
        for call in self._calls:
            by_side[call.claims.side] += call.sent
        return Counters(
            streams=len(self._joints),
            waiting=len(self._waiting),
            streams_total=self._streams_total,
            bytes_total=by_side.total(),
            bytes_by_side=by_side,
            ended_total=self._ended.copy(),
            refused_total=self._refused,
        )

    def traffic(self, lease: str) -> int:
        """Return how many bytes the open streams of a lease have carried so far; it grows while the lease is used."""
        return sum(call.sent for call in self._by_lease.get(lease, ()))

    def client_waits(self, stream: str) -> bool:
        """Tell whether the client's end of a stream is there, and the exporter's has not come yet."""
        call = self._waiting.get(stream)
        return call is not None and call.claims.side == "client"

    # -- ending ------------------------------------------------------------------------------------

    def cut(self, streams: Iterable[str]) -> int:
        """End streams at once, and refuse callers who come for them later; return how many calls were ended."""
        wanted = frozenset(streams)
        for stream in wanted:
            self._spent.add(stream, cut=True)
        return self._finish((call for call in self._calls if call.claims.stream in wanted), End.CUT)

    def cut_lease(self, lease: str, client: str = "") -> int:
        """End the open streams of a lease, or of one client of it, at once; return how many calls were ended.

        The other end of a client's stream ends with it. Tokens that were not used yet are not known here, see `cut`.
        """
        calls = self._by_lease.get(lease, set()) if lease else set()
        streams = {call.claims.stream for call in calls if not client or call.claims.client == client}
        return self.cut(streams)

    def drain(self) -> None:
        """Take no new streams; callers whose other end waits already are still joined."""
        self._draining = True

    async def stop(self, grace: float = 0.0) -> None:
        """Drain, give open streams `grace` seconds to end, and end what is left."""
        self.drain()
        if grace > 0:
            await self._wait_idle(grace)
        self._finish(self._calls, End.STOPPED)
        if not await self._wait_idle(STOP_TIMEOUT):
            logger.warning("%d calls of the router did not end in %g s", len(self._calls), STOP_TIMEOUT)

    async def _wait_idle(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _finish(self, calls: Iterable[Call], end: End) -> int:
        chosen = [call for call in calls if not call.finished]
        for call in chosen:
            call.finish(end)
        return len(chosen)

    # -- a call ------------------------------------------------------------------------------------

    async def _stream(self, requests: Any, context: Any) -> None:
        try:
            call = Call(context, self._admitted(context))
        except Refused as refused:
            self._refused += 1
            logger.info("router authentication failed: peer %s: %s", context.peer(), refused)
            await abort(context, refused)
        self._enter(call)
        try:
            if await self._joined(call):
                await call.run()
        except asyncio.CancelledError:
            # gRPC cancels when the caller is gone, then there is nobody to answer; otherwise it was `finish`.
            if not call.finished or call.task is None:
                raise
            call.task.uncancel()
        finally:
            self._leave(call)
        if call.end is not None:
            context.set_trailing_metadata(((END_KEY, str(call.end)),))

    def _admitted(self, context: Any) -> StreamClaims:
        claims = self._verify(bearer_token(context.invocation_metadata()))
        self._spent.check(claims.stream)
        if claims.stream not in self._waiting:
            if self._draining:
                raise Refused(Code.UNAVAILABLE, "ROUTER_STOPPING", "the router is stopping; dial again")
            if len(self._waiting) >= self.limits.waiting or (
                self._waiting_of[claims.lease] >= self.limits.waiting_per_lease and claims.lease
            ):
                message = "too many callers wait at the router for their other end; try again in a minute"
                raise Refused(Code.RESOURCE_EXHAUSTED, "TOO_MANY_WAITING", message)
        return claims

    async def _joined(self, call: Call) -> bool:
        """Wait for the other end; return False when it doesn't come."""
        stream = call.claims.stream
        other = self._waiting.get(stream)
        if other is not None:
            self._unwait(other)
            if call.claims.side and call.claims.side == other.claims.side:
                # The caller lost its connection, and came again before that was noticed here.
                other.finish(End.SUPERSEDED)
            else:
                self._spent.add(stream)
                self._joints.add(call.join(other))
                self._streams_total += 1
                return True
        self._waiting[stream] = call
        self._waiting_of[call.claims.lease] += 1
        done, _ = await asyncio.wait([call.arrived], timeout=self.limits.wait)
        if not done:
            call.end = End.ALONE
        return bool(done)

    def _enter(self, call: Call) -> None:
        self._calls.add(call)
        self._by_lease.setdefault(call.claims.lease, set()).add(call)
        self._idle.clear()

    def _unwait(self, call: Call) -> None:
        if self._waiting.get(call.claims.stream) is call:
            del self._waiting[call.claims.stream]
            lease = call.claims.lease
            self._waiting_of[lease] -= 1
            if self._waiting_of[lease] <= 0:
                del self._waiting_of[lease]

    def _leave(self, call: Call) -> None:
        self._unwait(call)
        self._calls.discard(call)
        of_lease = self._by_lease[call.claims.lease]
        of_lease.discard(call)
        if not of_lease:
            del self._by_lease[call.claims.lease]
        self._bytes[call.claims.side] += call.sent
        if call.end is not None:
            self._ended[call.end] += 1
        call.leave()
        if call.joint is not None and call.joint.members == 0:
            self._joints.discard(call.joint)
        if not self._calls:
            self._idle.set()


@dataclass
class _Spent:
    """Streams that are not to be joined any more, until their tokens have expired."""

    most: int
    _cut: dict[str, bool] = field(default_factory=dict)
    """Of each stream, whether it has lost its right or was merely used."""
    _due: deque[tuple[float, str]] = field(default_factory=deque)

    def add(self, stream: str, *, cut: bool = False) -> None:
        if stream not in self._cut:
            self._due.append((time.monotonic() + REMEMBERED, stream))
        self._cut[stream] = cut or self._cut.get(stream, False)
        self._forget()

    def check(self, stream: str) -> None:
        """Raise `Refused` for a stream that is spent."""
        self._forget()
        cut = self._cut.get(stream)
        if cut:
            message = "the right to the stream has ended; dial again, if the lease is still yours"
            raise Refused(Code.UNAUTHENTICATED, "STREAM_CUT", message)
        if cut is not None:
            message = "the stream token was used already, and is good for one stream; dial again"
            raise Refused(Code.UNAUTHENTICATED, "STREAM_TOKEN_USED", message)

    def _forget(self) -> None:
        now = time.monotonic()
        while self._due and (self._due[0][0] < now or len(self._due) > self.most):
            del self._cut[self._due.popleft()[1]]


def bearer_token(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the bearer token of a call.

    Raises:
        Refused: there is none, there are several, or it is not of that form.
    """
    values: Iterator[str | bytes] = (value for key, value in metadata or () if key == "authorization")
    value = next(values, None)
    if value is None:
        raise Refused(Code.UNAUTHENTICATED, "TOKEN_MISSING", "missing authorization: send the token of the stream")
    scheme, _, token = str(value).partition(" ")
    if next(values, None) is not None or scheme.lower() != "bearer" or not token.strip():
        message = "malformed authorization: there has to be one value, of the form Bearer TOKEN"
        raise Refused(Code.UNAUTHENTICATED, "TOKEN_MALFORMED", message)
    return token.strip()
