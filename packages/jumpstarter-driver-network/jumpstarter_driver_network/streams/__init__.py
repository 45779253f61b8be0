"""Streams that speak a protocol on top of another stream or connection."""

from .websocket import WebsocketServerStream

__all__ = ["WebsocketServerStream"]
