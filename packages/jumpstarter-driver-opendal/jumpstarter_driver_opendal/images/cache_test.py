"""The cache never holds half an entry, more than its limit, or less than what is in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .cache import Cache, CacheError
from .conftest import MIB, disk_content, written
from .ingest import Ingest, find_image, image_key, known_sizes, partial_state


def put(cache: Cache, key: str, size: int, age: float = 0) -> None:
    with cache.build() as new:
        new.reserve(size)
        (new.path / "content").write_bytes(b"x" * size)
        new.commit(key, {}).close()
    path = cache.directory / "entries" / key / "entry.json"
    os.utime(path, (path.stat().st_mtime - age,) * 2)


def test_entry_that_was_committed_is_found_with_its_facts(cache: Cache):
    with cache.build() as new:
        (new.path / "content").write_bytes(b"x")
        new.commit("key-0000", {"a": 1}).close()
    entry = cache.get("key-0000")
    assert entry is not None
    with entry:
        assert entry.facts == {"a": 1}
        assert (entry.path / "content").read_bytes() == b"x"


def test_entry_that_was_not_committed_leaves_nothing(cache: Cache):
    with cache.build() as new:
        (new.path / "content").write_bytes(b"x" * MIB)
    assert cache.usage() < 1000


@pytest.mark.parametrize("key", ["", "../../../etc", "a/b/c/d/e/f", "KEY-0000", "x" * 300])
def test_key_that_is_no_plain_name_is_refused(cache: Cache, key: str):
    with pytest.raises(ValueError, match="key of the cache"):
        cache.get(key)


def test_room_is_made_of_what_was_used_longest_ago(tmp_path: Path):
    cache = Cache(tmp_path, 10 * MIB)
    put(cache, "key-old0", 3 * MIB, age=100)
    put(cache, "key-mid0", 3 * MIB, age=50)
    entry = cache.get("key-old0")  # used now, so the other one is older
    assert entry is not None
    entry.close()
    put(cache, "key-new0", 5 * MIB)
    assert cache.get("key-mid0") is None
    assert cache.get("key-old0") is not None
    assert cache.usage() <= 10 * MIB


def test_entry_in_use_is_kept_and_the_error_says_what_to_do(tmp_path: Path):
    cache = Cache(tmp_path, 10 * MIB)
    put(cache, "key-old0", 6 * MIB)
    entry = cache.get("key-old0")
    assert entry is not None
    with entry, pytest.raises(CacheError, match="Raise 'cache_size'"):
        cache.make_room(5 * MIB)
    cache.make_room(5 * MIB)
    assert cache.get("key-old0") is None


def test_entry_that_another_process_uses_is_kept(tmp_path: Path):
    cache = Cache(tmp_path, 10 * MIB)
    put(cache, "key-old0", 6 * MIB)
    script = (
        "import sys; from jumpstarter_driver_opendal.images.cache import Cache\n"
        f"entry = Cache({str(tmp_path)!r}, {10 * MIB}).get('key-old0'); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(CacheError):
            cache.make_room(5 * MIB)
        other.kill()
        other.wait(10)
    cache.make_room(5 * MIB)


def test_what_a_killed_builder_left_is_removed(tmp_path: Path):
    script = (
        "import os; from jumpstarter_driver_opendal.images.cache import Cache\n"
        f"new = Cache({str(tmp_path)!r}, {10 * MIB}).build(); (new.path / 'x').write_bytes(b'x' * 1000000)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], timeout=30)
    cache = Cache(tmp_path, 10 * MIB)
    assert cache.usage() >= 1_000_000
    cache.build().close()
    assert cache.usage() < 1000


def test_image_that_lost_a_piece_is_not_found(cache: Cache):
    taking = Ingest(cache, "test")
    taking.feed(disk_content())
    image = taking.finish()
    taking.close()
    image.close()
    image.file(image.plan.pieces[0]).write_bytes(b"short")
    assert find_image(cache, image.facts["sha256"]) is None
    assert cache.get(image_key(image.facts["sha256"])) is None


def test_image_larger_than_the_cache_is_refused_in_the_middle(tmp_path: Path):
    cache = Cache(tmp_path, 4 * MIB)
    taking = Ingest(cache, "test")
    taking.feed(os.urandom(MIB))
    with pytest.raises(CacheError, match="cache_size"):
        taking.feed(os.urandom(3 * MIB))
    taking.close()
    assert cache.usage() <= 4 * MIB


def test_broken_transfer_goes_on_where_it_ended(cache: Cache):
    import hashlib

    content = disk_content()
    first = Ingest(cache, "disk.img of 6 MiB")
    first.feed(content[: 2 * MIB])
    first.close()
    assert partial_state(cache, "disk.img of 6 MiB") == (2 * MIB, hashlib.sha256(content[: 2 * MIB]).hexdigest())
    second = Ingest(cache, "disk.img of 6 MiB")
    assert second.resume() == 2 * MIB
    second.feed(content[2 * MIB :])
    image = second.finish()
    second.close()
    assert written(image) == content
    assert partial_state(cache, "disk.img of 6 MiB")[0] == 0
    assert known_sizes(cache) == {len(content)}


def test_unusable_directory_is_told_with_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cache_dir"):
        Cache(tmp_path / "file" / "cache", 1)


def test_full_disk_is_told_with_what_to_do(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 4096:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    taking = Ingest(cache, "test")
    with pytest.raises(CacheError, match="no space left"):
        taking.feed(disk_content())
    taking.close()
