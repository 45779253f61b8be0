"""Images over HTTP are fetched once, go on where they broke, and are never half there."""

from __future__ import annotations

import hashlib

import pytest
from jumpstarter.common.presigned import TransferFailed

from . import download as module
from .cache import Cache
from .conftest import MIB, FileServer, disk_content, file_server, written
from .download import Wanted, fetch_url
from .ingest import ChecksumMismatch


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.01)


async def fetch(cache: Cache, server: FileServer, name: str = "disk.img", **wanted: object) -> bytes:
    image = await fetch_url(cache, f"{server.url}/{name}", Wanted(**wanted))  # type: ignore[arg-type]
    try:
        return written(image)
    finally:
        image.close()


async def test_image_is_fetched_once_when_the_server_says_that_it_did_not_change(cache: Cache):
    content = disk_content()
    async with file_server() as server:
        server.files["disk.img"], server.etags["disk.img"] = content, '"v1"'
        assert await fetch(cache, server) == content
        assert await fetch(cache, server) == content
        assert [request.get("If-None-Match") for request in server.requests] == [None, '"v1"']


async def test_image_that_changed_is_fetched_again(cache: Cache):
    async with file_server() as server:
        server.files["disk.img"], server.etags["disk.img"] = disk_content(), '"v1"'
        await fetch(cache, server)
        server.files["disk.img"], server.etags["disk.img"] = disk_content(seed=2), '"v2"'
        assert await fetch(cache, server) == disk_content(seed=2)


async def test_image_with_a_known_check_sum_needs_no_server_the_second_time(cache: Cache):
    content = disk_content()
    sha256 = hashlib.sha256(content).hexdigest()
    async with file_server() as server:
        server.files["disk.img"] = content
        await fetch(cache, server, sha256=sha256)
    assert await fetch(cache, server, sha256=sha256) == content


async def test_transfer_that_breaks_goes_on_from_there(cache: Cache):
    content = disk_content()
    async with file_server() as server:
        server.files["disk.img"], server.etags["disk.img"] = content, '"v1"'
        server.cut = [2 * MIB, MIB]
        assert await fetch(cache, server) == content
        ranges = [int(request.get("Range", "bytes=0-")[6:-1]) for request in server.requests]
        assert len(ranges) == 3
        assert 0 < ranges[1] <= 2 * MIB < ranges[2] <= 3 * MIB


async def test_transfer_that_another_process_began_goes_on(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    content = disk_content()
    async with file_server() as server:
        server.files["disk.img"], server.etags["disk.img"] = content, '"v1"'
        server.cut = [4 * MIB]
        monkeypatch.setattr(module, "TRIES", 1)
        with pytest.raises(TransferFailed):
            await fetch(cache, server)
        assert await fetch(cache, server) == content
        assert int(server.requests[-1]["Range"][6:-1]) >= 3 * MIB
        assert server.requests[-1]["If-Range"] == '"v1"'


async def test_file_that_changes_while_it_is_fetched_is_begun_anew(cache: Cache):
    async with file_server() as server:
        server.files["disk.img"], server.etags["disk.img"] = disk_content(), '"v1"'
        server.cut = [4 * MIB]
        server.changes["disk.img"] = (disk_content(seed=2), '"v2"')
        assert await fetch(cache, server) == disk_content(seed=2)
        assert len(server.requests) == 2


@pytest.mark.parametrize("validator", [None, 'W/"weak"'])
async def test_server_without_ranges_or_versions_is_asked_for_all_again(cache: Cache, validator: str | None):
    content = disk_content()
    async with file_server() as server:
        server.files["disk.img"], server.ranges = content, False
        if validator:
            server.etags["disk.img"] = validator
        server.cut = [2 * MIB]
        assert await fetch(cache, server) == content


async def test_passing_failure_of_the_server_is_waited_out(cache: Cache):
    async with file_server() as server:
        server.files["disk.img"] = disk_content()
        server.statuses = [503, 500]
        assert await fetch(cache, server) == disk_content()


async def test_server_that_never_gets_further_is_given_up(cache: Cache):
    async with file_server() as server:
        server.files["disk.img"] = disk_content()
        server.cut = [0] * 100
        with pytest.raises(TransferFailed):
            await fetch(cache, server)
        assert len(server.requests) <= module.TRIES + 1


async def test_missing_file_is_not_asked_for_twice(cache: Cache):
    async with file_server() as server:
        with pytest.raises(TransferFailed, match="404"):
            await fetch(cache, server)
        assert len(server.requests) == 1
    assert cache.facts() == []


async def test_server_that_is_not_there_is_not_asked_twice(cache: Cache):
    async with file_server() as server:
        pass
    with pytest.raises(TransferFailed, match="can't connect"):
        await fetch(cache, server)


async def test_wrong_check_sum_is_an_error_and_nothing_is_kept(cache: Cache):
    async with file_server() as server:
        server.files["disk.img"] = disk_content()
        with pytest.raises(ChecksumMismatch):
            await fetch(cache, server, sha256="0" * 64)
    assert cache.facts() == []
    assert cache.usage() < MIB


async def test_redirects_are_followed_and_secrets_stay_with_the_first_server(cache: Cache):
    async with file_server() as first, file_server() as second:
        second.files["disk.img"], first.moved_to = disk_content(), second.url
        secrets = {"Authorization": "Bearer secret", "PRIVATE-TOKEN": "secret"}
        image = await fetch_url(cache, f"{first.url}/disk.img", Wanted(), headers=secrets)
        assert written(image) == disk_content()
        assert secrets.items() <= first.requests[0].items()
        assert not secrets.keys() & second.requests[0].keys()


async def test_progress_is_told_with_the_total(cache: Cache):
    content = disk_content()
    seen: list[tuple[int, int | None]] = []
    async with file_server() as server:
        server.files["disk.img"] = content
        await fetch_url(
            cache, f"{server.url}/disk.img", Wanted(), report=lambda done, total: seen.append((done, total))
        )
    assert seen[0] == (0, len(content))
    assert seen[-1] == (len(content), len(content))
