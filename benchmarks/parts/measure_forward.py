"""Measure a TCP connection: to PORT, or through the port forward of $JUMPSTARTER_HOST; prints one JSON object."""

from __future__ import annotations

import json
import socket
import sys
import time

from shared import latency

SIZE = 256 << 20


def measure(address: tuple[str, int]) -> dict[str, float]:
    """Return bytes per second one way, and seconds of a 64-byte round trip."""
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")

        def trip() -> None:
            connection.sendall(b"x" * 64)
            received = 0
            while received < 64:
                received += len(connection.recv(64))

        latency(trip, 50)
        seconds = latency(trip)
    with socket.create_connection(address) as connection:
        connection.sendall(b"s")
        chunk = b"x" * (1 << 20)
        started = time.perf_counter()
        for _ in range(SIZE >> 20):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(64)
        taken = time.perf_counter() - started
        assert int(answer) == SIZE
    return {"bytes per second": SIZE / taken, "trip": seconds}


def main() -> dict[str, float]:
    """Measure what the arguments ask for."""
    if sys.argv[1] != "forward":
        return measure(("127.0.0.1", int(sys.argv[1])))
    from jumpstarter.common.utils import env
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

    with env() as client, TcpPortforwardAdapter(client=client) as address:
        return measure((address[0], address[1]))


print(json.dumps(main()))
