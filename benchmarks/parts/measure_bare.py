"""Measure grpc.aio alone against serve_bare.py: measure_bare.py SOCKET; prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc, router_pb2, router_pb2_grpc
from shared import CALLS, ITEMS, THREADS, median_of


async def main(path: str) -> dict[str, float]:
    """Return seconds per call and round trip, calls and items per second."""
    request = jumpstarter_pb2.DriverCallRequest(uuid="0" * 36, method="echo")
    request.args.add().number_value = 1
    async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
        stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)

        async def call() -> None:
            await stub.DriverCall(request)

        latencies = []
        for _ in range(CALLS):
            started = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - started)

        async def many() -> None:
            for _ in range(CALLS // THREADS):
                await call()

        started = time.perf_counter()
        await asyncio.gather(*[many() for _ in range(THREADS)])
        rate = CALLS // THREADS * THREADS / (time.perf_counter() - started)

        streaming = jumpstarter_pb2.StreamingDriverCallRequest()
        streaming.args.add().number_value = ITEMS
        started = time.perf_counter()
        async for _ in stub.StreamingDriverCall(streaming):
            pass
        items = ITEMS / (time.perf_counter() - started)

        stream = router_pb2_grpc.RouterServiceStub(channel).Stream()
        frame = router_pb2.StreamRequest(payload=b"x" * 48)
        trips = []
        for _ in range(CALLS):
            started = time.perf_counter()
            await stream.write(frame)
            await stream.read()
            trips.append(time.perf_counter() - started)
        stream.cancel()
    return {"call": median_of(latencies), "rate": rate, "items": items, "trip": median_of(trips)}


print(json.dumps(asyncio.run(main(sys.argv[1]))))
