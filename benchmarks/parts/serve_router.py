"""A router: serve_router.py bare|ours CERTIFICATE KEY; prints its port, and at the end the CPU
seconds that it took and its peak memory in MiB.

`bare` is what grpc.aio does at best: it joins two calls that bring the same token, and does nothing else.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

import grpc
from shared import STREAM_KEY


class Bare(grpc.GenericRpcHandler):
    """Reads from one call, writes to the other."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[Any, asyncio.Future[None]]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Take every method."""
        return grpc.stream_stream_rpc_method_handler(self.stream)

    async def stream(self, _: Any, context: Any) -> None:
        """Wait for the other call, or join it."""
        stream = dict(context.invocation_metadata())["x-stream"]
        if stream not in self.waiting:
            self.waiting[stream] = (context, asyncio.get_running_loop().create_future())
            await self.waiting[stream][1]
            return
        other, done = self.waiting.pop(stream)

        async def copy(source: Any, sink: Any) -> None:
            while (frame := await source.read()) is not grpc.aio.EOF:
                await sink.write(frame)

        try:
            await asyncio.gather(copy(context, other), copy(other, context))
        finally:
            done.set_result(None)


def ours() -> tuple[grpc.GenericRpcHandler, Any]:
    """Return our router and the options of its server."""
    from jumpstarter_controller.clock import SystemClock
    from jumpstarter_controller.identity.keys import StreamKeys
    from jumpstarter_controller.identity.streams import StreamTokens
    from jumpstarter_controller.router.options import SERVER_OPTIONS
    from jumpstarter_controller.router.service import Relay

    return Relay(StreamTokens(StreamKeys([STREAM_KEY]), SystemClock()).verify), SERVER_OPTIONS


def cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main(kind: str, chain: bytes, key: bytes) -> None:
    """Serve until standard input ends."""
    handler, options = ours() if kind == "ours" else (Bare(), ())
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers([handler])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    await server.start()
    before = cpu()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu() - before, "memory": peak}))


asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes()))
