"""Measure a release's client against the bench driver at $JUMPSTARTER_HOST; prints one JSON object."""

from __future__ import annotations

import json
import threading
import time

from jumpstarter.common.utils import env
from shared import CALLS, ITEMS, THREADS, latency, median_of


def main() -> dict[str, float]:
    """Return seconds per call and round trip, calls and items per second."""
    numbers = {f"key{number}": number * 1.5 for number in range(1000)}
    with env() as client:

        def call() -> None:
            client.call("echo", 1)

        def many() -> None:
            for _ in range(CALLS // THREADS):
                call()

        result = {"call": latency(call), "blocking call": latency(lambda: client.call("blocking_echo", 1))}
        started = time.perf_counter()
        threads = [threading.Thread(target=many) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result["rate"] = CALLS // THREADS * THREADS / (time.perf_counter() - started)
        result["dictionary"] = latency(lambda: client.call("echo", numbers), 200)

        started = time.perf_counter()
        for _ in client.streamingcall("items", ITEMS):
            pass
        result["items"] = ITEMS / (time.perf_counter() - started)

        async def trips() -> float:
            taken = []
            async with client.stream_async("connect") as stream:
                for _ in range(CALLS):
                    begun = time.perf_counter()
                    await stream.send(b"x" * 48)
                    await stream.receive()
                    taken.append(time.perf_counter() - begun)
            return median_of(taken)

        result["trip"] = client.portal.call(trips)
        with client.stream("connect") as stream:

            def trip() -> None:
                stream.send(b"x" * 48)
                stream.receive()

            result["blocking trip"] = latency(trip)
    return result


print(json.dumps(main()))
