"""What gRPC alone can do on this machine: the same rpcs as an exporter's, with nothing behind them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2, router_pb2_grpc


class Bare(jumpstarter_pb2_grpc.ExporterServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """Echoes messages."""

    async def DriverCall(self, request: Any, context: Any) -> Any:
        """Return the first argument."""
        return jumpstarter_pb2.DriverCallResponse(uuid=request.uuid, result=request.args[0])

    async def StreamingDriverCall(self, request: Any, context: Any) -> Any:
        """Yield numbers."""
        for number in range(int(request.args[0].number_value)):
            response = jumpstarter_pb2.StreamingDriverCallResponse()
            response.result.number_value = number
            yield response

    async def Stream(self, requests: Any, context: Any) -> Any:
        """Send every frame back."""
        async for request in requests:
            yield router_pb2.StreamResponse(payload=request.payload)


async def main(path: str) -> None:
    """Serve, say so, and wait for the end of standard input."""
    server = grpc.aio.server()
    jumpstarter_pb2_grpc.add_ExporterServiceServicer_to_server(Bare(), server)
    router_pb2_grpc.add_RouterServiceServicer_to_server(Bare(), server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


asyncio.run(main(sys.argv[1]))
