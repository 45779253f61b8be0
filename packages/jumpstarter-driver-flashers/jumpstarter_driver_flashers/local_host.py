"""Images for exporters of other releases, which can't take images themselves: cut here, and stored piece by piece."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jumpstarter_driver_opendal.images.cache import Cache
from jumpstarter_driver_opendal.sources import SourceStream

from .image_service import FetchRequest, FindRequest, ImageService, ReceiveRequest, read_block_map

if TYPE_CHECKING:
    from .client import BaseFlasherClient

__all__ = ["LocalHost"]

CACHE_SIZE = "20GiB"


def cache_directory() -> Path:
    """Return where this client keeps images."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jumpstarter" / "flasher"


class LocalHost:
    """This client, as the host of images; what boards get is stored with the exporter's HTTP server."""

    def __init__(self, client: BaseFlasherClient) -> None:
        self._client = client
        self._folder = client.stack.enter_context(tempfile.TemporaryDirectory(prefix="jumpstarter-flash-"))
        self._service = ImageService(Cache(cache_directory(), CACHE_SIZE), lambda: Path(self._folder))
        client.stack.callback(self._service.close)

    async def find(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self._service.find(FindRequest.model_validate(request))

    async def receive(self, stream: SourceStream, request: dict[str, Any], block_map: Any) -> dict[str, Any]:
        text = None if block_map is None else await read_block_map(block_map)
        try:
            return await self._service.receive(ReceiveRequest.model_validate(request), stream, text)
        finally:
            await stream.aclose()

    async def fetch(self, request: dict[str, Any], block_map: Any) -> AsyncGenerator[dict[str, Any], None]:
        text = None if block_map is None else await read_block_map(block_map)
        async with aclosing(self._service.fetch(FetchRequest.model_validate(request), text)) as items:
            async for item in items:
                yield item

    @asynccontextmanager
    async def offering(self, stream: Any) -> AsyncGenerator[Any, None]:
        yield stream

    def offer(self, key: str) -> dict[str, Any]:
        """Store the pieces of an image with the exporter's HTTP server; blocking."""
        offered = self._service.offer(key)
        folder = Path(self._folder) / offered["path"]
        storage = self._client.children["http"].children["storage"]
        for file in sorted(folder.iterdir()):
            storage.write_from_path(f"{offered['path']}/{file.name}", str(file))  # type: ignore[attr-defined]
        return offered

    def withdraw(self, path: str) -> None:
        """Remove the pieces again; blocking."""
        self._service.withdraw(path)
        self._client.children["http"].children["storage"].remove_all(f"{path}/")  # type: ignore[attr-defined]
