"""Measure a CAN bus: python-can's own (`local`), or one of $JUMPSTARTER_HOST (`client`); prints one JSON object.

measure_can.py local|client FRAMES
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import can
from shared import latency

WAIT = 60
"""Seconds that a frame may take before something is wrong."""


def rate(sender: Any, receiver: Any, count: int) -> float:
    """Return frames per second from one bus to another, from the first send to the last frame received."""
    frames = [
        can.Message(arbitration_id=number & 0x7FF, is_extended_id=False, data=number.to_bytes(8, "big"))
        for number in range(count)
    ]
    received: list[int] = []

    def receive() -> None:
        for _ in range(count):
            frame = receiver.recv(WAIT)
            assert frame is not None, f"{count - len(received)} frames are missing"
            received.append(int.from_bytes(frame.data, "big"))

    reader = threading.Thread(target=receive)
    reader.start()
    started = time.perf_counter()
    for frame in frames:
        sender.send(frame)
    reader.join()
    taken = time.perf_counter() - started
    assert received == list(range(count)), "frames are missing, or in another order"
    return count / taken


def measure(one: Any, other: Any, count: int) -> dict[str, float]:
    """Return frames per second, and the seconds of a frame there and one back."""
    request = can.Message(arbitration_id=1, data=bytes(8))

    def trip() -> None:
        one.send(request)
        assert other.recv(WAIT) is not None
        other.send(request)
        assert one.recv(WAIT) is not None

    latency(trip, 20)
    return {"rate": rate(one, other, count), "trip": latency(trip, 200)}


def main(where: str, count: str) -> dict[str, float]:
    """Measure the bus that the arguments name."""
    if where == "local":
        with (
            can.Bus(interface="virtual", channel="bench") as one,
            can.Bus(interface="virtual", channel="bench") as other,
        ):
            return measure(one, other, int(count))
    from jumpstarter.common.utils import env

    with env() as client:
        return measure(client.one, client.other, int(count))


print(json.dumps(main(*sys.argv[1:])))
