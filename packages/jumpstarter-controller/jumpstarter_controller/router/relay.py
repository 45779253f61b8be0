"""Two calls joined: what one caller sends the other one gets, frame by frame, unread.

Each call has a task, given by gRPC, which is cancelled when its caller goes away. In it runs the direction *towards*
that caller, so that nothing has to be interrupted when one end is lost: reading from it ends after what has been
received, what was read gets written, and the other call ends. There is one message in flight per direction.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

import grpc

from ..identity.streams import StreamClaims

EOF = grpc.aio.EOF

GONE = (grpc.aio.BaseError, grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""What reads and writes of a call raise that has ended."""

END_KEY = "x-jmp-stream-end"
"""Trailing metadata key that says why a call ended when it wasn't by its two ends; the status is OK nevertheless.

Published peers take OK for the end of the bytes, and hang on any other status.
"""


class End(StrEnum):
    """Why a call was ended, as the value of END_KEY."""

    LOST = "peer-lost"
    """The other end went away without having finished."""
    ALONE = "no-peer"
    """The other end did not come in time."""
    SUPERSEDED = "superseded"
    """A second call with the token of the same side came before the other end."""
    CUT = "cut"
    """The stream has lost its right: its lease was ended, handed over, or no longer shared."""
    STOPPED = "router-stopped"


class Call:
    """One caller, waiting or joined."""

    __slots__ = ("arrived", "claims", "context", "end", "finished", "joint", "sent", "task")

    def __init__(self, context: Any, claims: StreamClaims) -> None:
        self.context = context
        self.claims = claims
        self.task = asyncio.current_task()
        self.arrived = asyncio.get_running_loop().create_future()
        """Done when the call was joined."""
        self.joint: Joint | None = None
        self.end: End | None = None
        """Why it ends, when it is not by its two ends."""
        self.finished = False
        """Its task was cancelled by `finish`, not by gRPC."""
        self.sent = 0
        """Bytes that came from this caller and were passed on."""

    def finish(self, end: End) -> None:
        """End the call now, with OK; what was handed to gRPC before still reaches the caller."""
        if not self.finished and self.task is not None:
            self.finished = True
            self.end = self.end or end
            self.task.cancel()

    def join(self, other: Call) -> Joint:
        """Join two calls; both go on with `run`."""
        self.joint = other.joint = joint = Joint(self, other)
        for call in (self, other):
            if not call.arrived.done():
                call.arrived.set_result(None)
        return joint

    async def run(self) -> None:
        """Pass on what the other end sends, and return when both directions have ended or an end is lost."""
        joint = self.joint
        assert joint is not None
        source = joint.other(self)
        read, write = source.context.read, self.context.write
        while True:
            try:
                frame = await read()
            except GONE:
                break
            if frame is EOF:
                break
            try:
                await write(frame)
            except GONE:
                return
            source.sent += len(frame)
        joint.direction_ended()
        await joint.over.wait()

    def leave(self) -> None:
        """Tell the other end that this one is no more; to be called however the call ended."""
        if self.joint is not None:
            self.joint.left(self)


class Joint:
    """What the two calls know in common."""

    __slots__ = ("_directions", "ends", "members", "over")

    def __init__(self, one: Call, other: Call) -> None:
        self.ends = (one, other)
        self.members = 2
        """How many of the calls have not ended."""
        self.over = asyncio.Event()
        self._directions = 2

    def other(self, call: Call) -> Call:
        one, other = self.ends
        return other if call is one else one

    def direction_ended(self) -> None:
        """Count an end of a direction. After both, the stream is over."""
        self._directions -= 1
        if self._directions == 0:
            self.over.set()

    def left(self, call: Call) -> None:
        """Take note that a call has ended; without it the other one can only deliver what it has."""
        self.members -= 1
        if not self.over.is_set():
            other = self.other(call)
            if other.end is None:
                other.end = End.LOST
            self.over.set()
