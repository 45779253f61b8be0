"""Measure a router between two processes: measure_router.py PORT CERTIFICATE ENDS DIRECTION STREAMS FRAME SIZE.

ENDS is `bare` (grpc.aio calls of bytes) or `ours` (local sockets, bridged as clients and exporters do); DIRECTION is
`up`, `down`, `both` or `trip`; SIZE is bytes per stream and direction. Prints one JSON object: bytes per second of all
streams in one direction, or seconds of a round trip.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from shared import STREAM_KEY, median_of

METHOD = "/jumpstarter.v1.RouterService/Stream"
TRIPS = 500


def token(stream: str, side: str) -> str:
    """Return a token as a controller issues it."""
    from jumpstarter_controller.clock import SystemClock
    from jumpstarter_controller.identity.keys import StreamKeys
    from jumpstarter_controller.identity.streams import StreamTokens

    return StreamTokens(StreamKeys([STREAM_KEY]), SystemClock()).issue(stream, lease="lab/bench", side=side)


class BareEnd:
    """Messages of a call as they are."""

    def __init__(self, call: Any) -> None:
        self.read, self.write, self.finish = call.read, call.write, call.done_writing

    async def drain(self) -> int:
        """Read to the end; return the bytes."""
        count = 0
        while (frame := await self.read()) is not grpc.aio.EOF:
            count += len(frame)
        return count


class SocketEnd:
    """The near end of a local socket whose far end is bridged to the router."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.loop = asyncio.get_running_loop()
        near.setblocking(False)

    async def read(self) -> bytes:
        """Read what is there."""
        return await self.loop.sock_recv(self.near, 1 << 18)

    async def write(self, data: bytes) -> None:
        """Send all."""
        await self.loop.sock_sendall(self.near, data)

    async def finish(self) -> None:
        """Send the end."""
        self.near.shutdown(socket.SHUT_WR)

    async def drain(self) -> int:
        """Read to the end; return the bytes."""
        count, buffer = 0, bytearray(1 << 18)
        while received := await self.loop.sock_recv_into(self.near, buffer):
            count += received
        return count


@asynccontextmanager
async def opened(port: str, chain: bytes, ends: str, stream: str, side: str) -> AsyncIterator[Any]:
    """Open one end of a stream, on a connection of its own."""
    if ends == "bare":
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(chain), options
        ) as channel:
            metadata = (("x-stream", stream), ("authorization", f"Bearer {token(stream, side)}"))
            yield BareEnd(channel.stream_stream(METHOD)(metadata=metadata))
        return
    from jumpstarter.common.router import RouterChannels
    from jumpstarter.common.tls import TLSConfigV1Alpha1
    from jumpstarter.streams.sockets import SocketByteStream

    near, far = socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    tls = TLSConfigV1Alpha1(ca=base64.b64encode(chain).decode())
    async with (
        RouterChannels(tls) as channels,
        SocketByteStream(far) as bridged,
        channels.connect(f"127.0.0.1:{port}", token(stream, side), bridged),
    ):
        yield SocketEnd(near)
        near.close()


async def one(end: Any, side: str, direction: str, frame: int, size: int) -> None:
    """Do this side's part of a stream."""
    if direction == "trip":
        return
    sends = direction == "both" or direction == {"client": "up", "exporter": "down"}[side]
    receives = direction == "both" or not sends

    async def send() -> None:
        chunk = bytes(frame)
        for _ in range(size // frame if sends else 0):
            await end.write(chunk)
        await end.finish()

    _, count = await asyncio.gather(send(), end.drain())
    assert count == (size // frame * frame if receives else 0), count


async def run(
    port: str, chain: bytes, ends: str, side: str, direction: str, streams: str, frame: str, size: str
) -> Any:
    """Do all streams of one side; return bytes per second, or seconds of a round trip."""

    async def stream(number: int, began: list[float]) -> None:
        async with opened(port, chain, ends, f"stream-{number}", side) as end:
            # The time runs from when both ends are there.
            await end.write(b"!")
            assert await end.read() == b"!"
            began.append(time.perf_counter())
            await one(end, side, direction, int(frame), int(size))

    if direction == "trip":
        async with opened(port, chain, ends, "trip", side) as end:
            if side == "exporter":
                for _ in range(TRIPS):
                    await end.write(await end.read())
                await end.finish()
                return await end.drain()
            trips = []
            for _ in range(TRIPS):
                before = time.perf_counter()
                await end.write(b"x" * int(frame))
                await end.read()
                trips.append(time.perf_counter() - before)
            await end.finish()
            await end.drain()
            return median_of(trips)
    began: list[float] = []
    await asyncio.gather(*(stream(number, began) for number in range(int(streams))))
    return int(streams) * int(size) / (time.perf_counter() - min(began))


def main() -> None:
    """Be the client, and start the exporter."""
    port, certificate, ends, *rest = sys.argv[1:]
    if rest[0] == "exporter":
        asyncio.run(run(port, Path(certificate).read_bytes(), ends, *rest))
        return
    with subprocess.Popen([sys.executable, __file__, port, certificate, ends, "exporter", *rest]) as exporter:
        value = asyncio.run(run(port, Path(certificate).read_bytes(), ends, "client", *rest))
        assert exporter.wait(60) == 0
    print(json.dumps({"value": value}))


main()
