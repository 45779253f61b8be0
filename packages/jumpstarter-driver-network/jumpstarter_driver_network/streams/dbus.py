"""The stream of a client to a bus, on which the client's claim of identity is replaced by the exporter's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from anyio import BrokenResourceError
from anyio.abc import ByteStream, ObjectStream

from jumpstarter_driver_network.dbus import AuthRewriter


@dataclass(kw_only=True)
class DbusAuthStream(ObjectStream[bytes]):
    """`stream`, a fresh connection to a bus, with the authentication rewritten on its way there."""

    stream: ByteStream
    _rewriter: AuthRewriter = field(init=False, default_factory=lambda: AuthRewriter(os.getuid()))

    async def send(self, item: bytes) -> None:
        """Send a chunk of the client.

        Raises:
            BrokenResourceError: the client does not speak D-Bus.
        """
        try:
            data = self._rewriter.feed(item)
        except ValueError as error:
            raise BrokenResourceError(str(error)) from error
        if data:
            await self.stream.send(data)

    async def receive(self) -> bytes:
        """Return the next chunk of the bus."""
        return await self.stream.receive(1 << 20)

    async def send_eof(self) -> None:
        """Say that the client will send nothing more."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection to the bus."""
        await self.stream.aclose()
