"""Fetching images over HTTP into the cache: only what changed, and from where a broken transfer ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.presigned import TransferFailed, responding

from .cache import Cache
from .ingest import CachedImage, Ingest, close_ingest, find_image, ingest_stream

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Progress", "Wanted", "download", "fetch_url"]

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are there, and the bytes there will be where that is known."""

Opener = Callable[
    [Mapping[str, str]], AbstractAsyncContextManager[tuple["aiohttp.ClientResponse", ObjectStream[bytes]]]
]
"""Makes a GET request with further headers; yields the response and its body."""

TRIES: Final = 5
"""Tries in a row that bring nothing new before a transfer is given up."""

MAX_TRIES: Final = 50

RETRY_PAUSE: Final = 1.0
"""Seconds before the first new try; doubled each time."""

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed (RFC 9110 15.5, 15.6; RFC 6585 4)."""


def _silent(done: int, total: int | None) -> None:
    """Report to nobody."""


@dataclass(kw_only=True)
class Wanted:
    """What an image must be, and how it is cut."""

    sha256: str | None = None
    """Of the image file, in hexadecimal digits."""
    block_map: bytes | None = None
    """Text of its block map."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is to be written down about it."""

    @property
    def bmap_sha256(self) -> str | None:
        """What tells images that are cut with different block maps apart."""
        import hashlib

        return hashlib.sha256(self.block_map).hexdigest() if self.block_map is not None else None

    def find(self, cache: Cache, sha256: str | None) -> CachedImage | None:
        """Open the image if its SHA-256 is known and it is in the cache. Blocking."""
        return find_image(cache, sha256.lower(), self.bmap_sha256) if sha256 else None


async def fetch_url(
    cache: Cache,
    url: str,
    wanted: Wanted,
    *,
    headers: Mapping[str, str] | None = None,
    tls: Any = None,
    report: Progress = _silent,
) -> CachedImage:
    """Return the image that a URL has, fetched unless the cache has it.

    Without an expected check sum the server is asked whether it changed (RFC 9110 13).

    Args:
        cache: where it goes.
        url: `http://` or `https://`.
        wanted: what it must be.
        headers: for the request, such as `Authorization`.
        tls: an `ssl.SSLContext` for servers that the system doesn't trust.
        report: is told how far the transfer is.

    Raises:
        TransferFailed, TimeoutError: the server refuses it, or can't be reached or gives up in the middle.
        ImageError: what came is not the expected image, or damaged.
        CacheError: the cache can't take it.
    """
    found = await to_thread.run_sync(wanted.find, cache, wanted.sha256)
    if found is not None:
        return found

    def opener(more: Mapping[str, str]) -> Any:
        return responding(url, {**(headers or {}), **more}, tls=tls)

    return await download(cache, f"url {url}", opener, wanted, report=report)


async def download(
    cache: Cache, name: str, opener: Opener, wanted: Wanted, *, report: Progress = _silent, fixed: bool = False
) -> CachedImage:
    """Transfer an image into the cache, in as many requests as it takes.

    Args:
        cache: where it goes.
        name: says what is transferred.
        opener: makes a request.
        wanted: what it must be.
        report: is told how far the transfer is.
        fixed: what has this name never changes, as its hash is in it.
    """
    note = {} if fixed else await to_thread.run_sync(cache.note, name)
    known = await to_thread.run_sync(wanted.find, cache, note.get("sha256") if wanted.sha256 is None else None)
    begin = partial(Ingest, cache, name, block_map=wanted.block_map, sha256=wanted.sha256)
    try:
        ingest = await to_thread.run_sync(begin)
        try:
            transfer = _Transfer(cache, name, opener, ingest, report, fixed, note)
            if not await transfer.run(_conditions(note) if known is not None else {}):
                assert known is not None
                result, known = known, None
                return result
            image = await to_thread.run_sync(ingest.finish, wanted.facts)
        finally:
            await close_ingest(ingest)
    finally:
        if known is not None:
            known.close()
    if not fixed:
        sha256 = image.facts["sha256"]
        await to_thread.run_sync(cache.write_note, name, {**transfer.validators, "sha256": sha256})
    return image


class _Transfer:
    """Requests until all of a file is there."""

    def __init__(
        self,
        cache: Cache,
        name: str,
        opener: Opener,
        ingest: Ingest,
        report: Progress,
        fixed: bool,
        note: dict[str, Any],
    ) -> None:
        self._cache, self._name, self._opener, self._ingest = cache, name, opener, ingest
        self._report = report
        self._fixed = fixed
        self.validators: dict[str, Any] = {name: note[name] for name in ("etag", "last_modified") if note.get(name)}
        self._total: int | None = None
        self._answered = False

    async def run(self, conditions: Mapping[str, str]) -> bool:
        """Transfer; False if the server says that nothing has changed."""
        if conditions:
            kept = 0  # what is kept belongs to a file that was complete, or to another version
            await to_thread.run_sync(self._ingest.restart)
        elif self._fixed or self._range_condition():
            kept = await to_thread.run_sync(self._ingest.resume)
        else:
            kept = 0
            await to_thread.run_sync(self._ingest.restart)
        idle = 0
        for attempt in range(MAX_TRIES):
            try:
                return await self._request({} if self._answered else conditions)
            except (TransferFailed, TimeoutError, ConnectionAbortedError) as error:
                now = self._ingest.kept
                idle = 1 if now > kept else idle + 1
                kept = now
                if not self._worth_another(error) or idle >= TRIES or attempt == MAX_TRIES - 1:
                    raise
            await anyio.sleep(RETRY_PAUSE * 2 ** (idle - 1))
        raise AssertionError("unreachable")

    def _worth_another(self, error: BaseException) -> bool:
        """A server that never answered is more likely to be a wrong name than to recover."""
        status = getattr(error, "status", None)
        return self._answered if status is None else status in _PASSING

    def _range_condition(self) -> str | None:
        """Return what tells the server which version a range is of; weak tags won't do (RFC 9110 13.1.5)."""
        etag = self.validators.get("etag")
        return etag if etag and not etag.startswith("W/") else self.validators.get("last_modified")

    async def _request(self, conditions: Mapping[str, str]) -> bool:
        headers = dict(conditions)
        kept = self._ingest.kept
        if kept and not conditions:
            version = self._range_condition()
            if version is None and not self._fixed:
                await to_thread.run_sync(self._ingest.restart)
                kept = 0
            else:
                headers["Range"] = f"bytes={kept}-"
                if version is not None:
                    headers["If-Range"] = version
        try:
            async with self._opener(headers) as (response, body):
                self._answered = True
                if response.status == 304:
                    return False
                await self._accept(response, kept)
                await ingest_stream(self._ingest, body, lambda done: self._report(done, self._total))
        except TransferFailed as error:
            if error.status != 416:
                raise
            # Nothing is left to be sent, or what is kept is longer than the file.
            if not _is_whole(error.headers.get("Content-Range", ""), kept):
                await to_thread.run_sync(self._ingest.restart)
                raise TransferFailed(str(error), None) from None
        if self._total is not None and self._ingest.kept != self._total:
            raise TransferFailed(f"the server sent {self._ingest.kept} of {self._total} bytes")
        return True

    async def _accept(self, response: aiohttp.ClientResponse, kept: int) -> None:
        """Look at what a server is about to send."""
        length = response.content_length
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != kept:
                await to_thread.run_sync(self._ingest.restart)
                raise TransferFailed("the server sent another range than the one that was asked for")
            self._total = int(match[2]) if match[2] != "*" else None
        else:
            if kept:
                await to_thread.run_sync(self._ingest.restart)
            self._total = length
        self.validators = {
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
        }
        if not self._fixed:
            await to_thread.run_sync(self._cache.write_note, self._name, dict(self.validators))
        self._report(self._ingest.kept, self._total)


def _conditions(note: Mapping[str, Any]) -> dict[str, str]:
    """Return headers that ask for a file only if it is another one than before."""
    headers = {}
    if etag := note.get("etag"):
        headers["If-None-Match"] = str(etag)
    if modified := note.get("last_modified"):
        headers["If-Modified-Since"] = str(modified)
    return headers


def _is_whole(content_range: str, kept: int) -> bool:
    """Tell from the header of a 416 answer (RFC 9110 14.4) whether all is there already."""
    return content_range.strip() == f"bytes */{kept}"
