"""What the tests of images share: images with holes, disks put together again, and an HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from .cache import Cache
from .ingest import CachedImage

MIB = 1 << 20


def disk_content(size: int = 6 * MIB, seed: int = 1) -> bytes:
    """Return the bytes of a disk: data, a run of zeros, data, more zeros, and data at the end."""
    noise = Random(seed)
    content = bytearray(size)
    for start, length in ((0, MIB + 5000), (3 * MIB, 300_000), (size - 4096, 4096)):
        content[start : start + length] = noise.randbytes(length)
    return bytes(content)


def written(image: CachedImage, filler: bytes = b"\xaa") -> bytes:
    """Return what a disk holds after an image was written over old content."""
    disk = bytearray(filler * image.plan.size)
    for piece in image.plan.pieces:
        content = image.file(piece).read_bytes()
        assert hashlib.sha256(content).hexdigest() == piece.sha256
        assert len(content) == piece.size
        for extent in piece.extents:
            if extent.kind == "data":
                disk[extent.offset : extent.offset + extent.length] = content[: extent.length]
                content = content[extent.length :]
            else:
                disk[extent.offset : extent.offset + extent.length] = bytes(extent.length)
        assert not content
    return bytes(disk)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", "256MiB")


@dataclass
class FileServer:
    """Serves files with ranges and validators, and breaks off when told to."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    """Bytes after which the next transfers break."""
    statuses: list[int] = field(default_factory=list)
    """What the next requests are answered with."""
    changes: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    """Content and etag that files have after the next request."""
    moved_to: str | None = None
    """URL of the server that has the files."""
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.headers))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        name = request.match_info["name"]
        if self.moved_to is not None:
            raise web.HTTPTemporaryRedirect(f"{self.moved_to}/{name}")
        if name not in self.files:
            raise web.HTTPNotFound
        content, etag = self.files[name], self.etags.get(name)
        if name in self.changes:
            self.files[name], self.etags[name] = self.changes.pop(name)
        headers = {"ETag": etag} if etag else {}
        if etag and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        start, status = 0, 200
        asked = request.headers.get("Range", "")
        if asked and self.ranges and request.headers.get("If-Range", etag) == etag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(content) - start
        await response.prepare(request)
        end = min(start + self.cut.pop(0), len(content)) if self.cut else len(content)
        await response.write(content[start:end])
        if end < len(content) and request.transport is not None:
            await asyncio.sleep(0.05)
            request.transport.close()
        return response


@asynccontextmanager
async def file_server() -> AsyncGenerator[FileServer, None]:
    """Run a file server on loopback."""
    server = FileServer()
    app = web.Application()
    app.router.add_get("/{name:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
