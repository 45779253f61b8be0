"""The body of an HTTP response as a byte stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import BrokenResourceError, EndOfStream
from anyio.abc import ObjectStream

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AiohttpStreamReaderStream"]


@dataclass(frozen=True)
class AiohttpStreamReaderStream(ObjectStream[bytes]):
    """Receives what an aiohttp reader holds, in chunks as they arrived. Closing it leaves the response open."""

    reader: aiohttp.StreamReader

    async def receive(self) -> bytes:
        """Return the next chunk.

        Raises:
            EndOfStream: the body has ended.
            BrokenResourceError: the connection was lost before; the cause is aiohttp's error.
        """
        import aiohttp

        try:
            chunk = await self.reader.readany()
        except aiohttp.ClientError as error:
            raise BrokenResourceError from error
        if not chunk:
            raise EndOfStream
        return chunk

    async def send(self, item: bytes) -> None:
        """Refuse: a response is only read.

        Raises:
            BrokenResourceError: always.
        """
        raise BrokenResourceError

    async def send_eof(self) -> None:
        """Do nothing, as nothing can be sent."""

    async def aclose(self) -> None:
        """Do nothing: whoever made the request closes the response."""
