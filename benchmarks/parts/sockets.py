"""A TCP echo, sink and source for throughput, in a process of its own: sockets.py; prints its port."""

from __future__ import annotations

import socket
import sys
import threading


def serve(connection: socket.socket) -> None:
    """Read a mode byte; `e` echoes, `s` swallows and answers the count at the end."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mode = connection.recv(1)
        buffer = bytearray(1 << 20)
        total = 0
        while count := connection.recv_into(buffer):
            total += count
            if mode == b"e":
                connection.sendall(memoryview(buffer)[:count])
        if mode == b"s":
            connection.sendall(str(total).encode())


with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.close()), daemon=True).start()
    while True:
        try:
            accepted, _ = server.accept()
        except OSError:
            break
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()
