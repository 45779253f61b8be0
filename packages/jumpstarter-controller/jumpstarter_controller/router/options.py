"""How a gRPC server has to be set up for relaying."""

from __future__ import annotations

MAX_MESSAGE = 4 << 20
"""Bytes of one message; the limit that published peers and routers have."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # Peers of version 0.9 ping each 20 s, calls or not; a server that isn't told so ends their idle streams after 60 s.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A peer that vanished without a word is noticed by its silence. It may be silent for as long as a short loss of the
    # network takes, which its session ought to survive.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    # Present gRPC waits for an answer for as long as this says, whatever the one above does.
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # A second server on the same port would get half of the callers, and nobody would be told.
    ("grpc.so_reuseport", 0),
)
"""Options of `grpc.aio.server`. The windows are left to gRPC, which fits them to the way (BDP probing)."""
