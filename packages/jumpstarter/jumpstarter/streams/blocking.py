"""The blocking face of a byte stream, for code outside the event loop."""

from __future__ import annotations

from dataclasses import dataclass

from anyio.abc import ObjectStream
from anyio.from_thread import BlockingPortal


@dataclass(kw_only=True)
class BlockingStream:
    """`stream`, driven from other threads through `portal`."""

    stream: ObjectStream[bytes]
    portal: BlockingPortal

    def send(self, data: bytes) -> None:
        """Send one chunk; returns when the stream has taken it."""
        self.portal.call(self.stream.send, data)

    def receive(self) -> bytes:
        """Return the next chunk.

        Raises:
            anyio.EndOfStream: the other end has finished sending.
        """
        return self.portal.call(self.stream.receive)

    def send_eof(self) -> None:
        """Say that nothing more will be sent; receiving goes on."""
        self.portal.call(self.stream.send_eof)
