"""Bundles and images come out of a registry as they were pushed, or not at all."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from jumpstarter.common.oci import OciCredentials
from jumpstarter_testbench.oci_registry import INDEX, OciRegistry, digest_of, running_registry

from . import download as download_module
from .cache import Cache
from .conftest import MIB, disk_content, written
from .download import Wanted
from .ingest import ChecksumMismatch
from .registry import Reference, Registry, RegistryError, fetch_artifact, fetch_oci_image

FILES = {"manifest.yaml": b"kind: x\n", "data/kernel": b"k" * 5000, "data/dtbs/board.dtb": b"d" * 300}


@pytest.fixture(autouse=True)
def _no_accounts_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setattr(download_module, "RETRY_PAUSE", 0.01)


def client(server: OciRegistry, name: str = "org/bundle:latest", account: OciCredentials | None = None) -> Registry:
    return Registry(Reference.parse(f"http://{server.address}/{name}"), account)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("quay.io/org/image:v1", "quay.io", "org/image", "v1", None),
        ("oci://quay.io/org/image", "quay.io", "org/image", "latest", None),
        ("localhost:5000/a/b/c:x", "localhost:5000", "a/b/c", "x", None),
        (f"quay.io/a/b:t@sha256:{'0' * 64}", "quay.io", "a/b", None, f"sha256:{'0' * 64}"),
        ("alpine", "registry-1.docker.io", "library/alpine", "latest", None),
        ("org/image:1", "registry-1.docker.io", "org/image", "1", None),
        ("[::1]:5000/a/b", "[::1]:5000", "a/b", "latest", None),
    ],
)
def test_references_are_read_as_container_tools_do(
    text: str, registry: str, repository: str, tag: str | None, digest: str | None
):
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        registry,
        repository,
        tag,
        digest,
    )
    assert not reference.plain_http


@pytest.mark.parametrize("text", ["", "quay.io/", "quay.io/UPPER/case", "a b", "ftp://quay.io/a", "quay.io/a@sha256:1"])
def test_text_that_is_no_reference_is_refused(text: str):
    with pytest.raises(ValueError, match="no reference"):
        Reference.parse(text)


async def test_artifact_comes_with_all_its_files_once(cache: Cache, oci_registry: OciRegistry):
    digest = oci_registry.push("org/bundle", "latest", FILES)
    for _ in range(2):
        with await fetch_artifact(cache, client(oci_registry)) as entry:
            assert {name: (entry.path / name).read_bytes() for name in FILES} == FILES
            assert entry.facts["digest"] == digest
    assert len(oci_registry.pulls()) == len(FILES)


async def test_tag_that_moved_is_noticed(cache: Cache, oci_registry: OciRegistry):
    oci_registry.push("org/bundle", "latest", FILES)
    (await fetch_artifact(cache, client(oci_registry))).close()
    oci_registry.push("org/bundle", "latest", {**FILES, "manifest.yaml": b"kind: y\n"})
    with await fetch_artifact(cache, client(oci_registry)) as entry:
        assert (entry.path / "manifest.yaml").read_bytes() == b"kind: y\n"


async def test_artifact_that_is_named_by_digest_needs_no_registry_the_second_time(cache: Cache):
    with running_registry() as server:
        digest = server.push("org/bundle", "latest", FILES)
        (await fetch_artifact(cache, client(server, f"org/bundle@{digest}"))).close()
    (await fetch_artifact(cache, client(server, f"org/bundle@{digest}"))).close()


async def test_registry_that_is_down_is_bridged_by_what_the_tag_named_before(cache: Cache):
    with running_registry() as server:
        server.push("org/bundle", "latest", FILES)
        (await fetch_artifact(cache, client(server))).close()
    with await fetch_artifact(cache, client(server)) as entry:
        assert (entry.path / "manifest.yaml").exists()
    with pytest.raises(RegistryError, match="Can the exporter reach"):
        await fetch_artifact(cache, client(server, "org/bundle:other"))


async def test_blob_that_arrives_damaged_is_refused(cache: Cache, oci_registry: OciRegistry):
    oci_registry.push("org/bundle", "latest", FILES)
    oci_registry.corrupt.add(digest_of(FILES["data/kernel"]))
    with pytest.raises(RegistryError, match=r"data/kernel of .* arrived damaged"):
        await fetch_artifact(cache, client(oci_registry))
    assert cache.facts() == []


async def test_manifest_that_is_not_the_one_asked_for_is_refused(cache: Cache, oci_registry: OciRegistry):
    wanted = oci_registry.push("org/bundle", "latest", FILES)
    other = oci_registry.push("org/bundle", "other", {"manifest.yaml": b"evil"})
    oci_registry.manifests["org/bundle", wanted] = oci_registry.manifests["org/bundle", other]
    with pytest.raises(RegistryError, match="broken"):
        await fetch_artifact(cache, client(oci_registry, f"org/bundle@{wanted}"))


async def test_transfer_of_a_blob_that_breaks_is_tried_again(cache: Cache, oci_registry: OciRegistry):
    oci_registry.push("org/bundle", "latest", {"big": b"x" * MIB})
    oci_registry.cut[digest_of(b"x" * MIB)] = 1000
    with await fetch_artifact(cache, client(oci_registry)) as entry:
        assert (entry.path / "big").read_bytes() == b"x" * MIB


@pytest.mark.parametrize("title", ["../escape", "/etc/passwd", "a/../../b", "entry.json"])
async def test_file_that_would_lie_elsewhere_is_refused(cache: Cache, oci_registry: OciRegistry, title: str):
    oci_registry.push("org/bundle", "latest", {title: b"x"})
    with pytest.raises(RegistryError, match="no name inside"):
        await fetch_artifact(cache, client(oci_registry))


async def test_directory_that_was_pushed_is_unpacked(cache: Cache, oci_registry: OciRegistry):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("data/kernel")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    oci_registry.push(
        "org/bundle", "latest", {"data": buffer.getvalue()}, "application/vnd.oci.image.layer.v1.tar+gzip"
    )
    with await fetch_artifact(cache, client(oci_registry)) as entry:
        assert (entry.path / "data" / "kernel").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("../outside", tarfile.REGTYPE, "lies outside"),
        ("/etc/outside", tarfile.REGTYPE, "lies outside"),
        ("data/link", tarfile.SYMTYPE, "neither a file nor a directory"),
        ("data/device", tarfile.CHRTYPE, "neither a file nor a directory"),
    ],
)
async def test_directory_that_holds_something_else_is_refused(
    cache: Cache, oci_registry: OciRegistry, name: str, kind: bytes, told: str
):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    oci_registry.push(
        "org/bundle", "latest", {"data": buffer.getvalue()}, "application/vnd.oci.image.layer.v1.tar+gzip"
    )
    with pytest.raises(RegistryError, match=told):
        await fetch_artifact(cache, client(oci_registry))


async def test_missing_tag_says_so(cache: Cache, oci_registry: OciRegistry):
    with pytest.raises(RegistryError, match=r"404.*Check the name and the tag"):
        await fetch_artifact(cache, client(oci_registry))


async def test_index_of_one_manifest_is_followed_and_of_several_is_refused(cache: Cache, oci_registry: OciRegistry):
    digest = oci_registry.push("org/bundle", "inner", FILES)
    entry = {"mediaType": "m", "digest": digest, "size": 1, "platform": {"architecture": "arm64", "os": "linux"}}
    oci_registry.push_manifest("org/bundle", "latest", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    (await fetch_artifact(cache, client(oci_registry))).close()
    oci_registry.push_manifest(
        "org/bundle", "both", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry, entry]}
    )
    with pytest.raises(RegistryError, match=r"index of 2 manifests.*arm64"):
        await fetch_artifact(cache, client(oci_registry, "org/bundle:both"))


@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "bearer"])
async def test_account_opens_a_guarded_registry(cache: Cache, oci_registry: OciRegistry, tokens: bool):
    oci_registry.push("org/bundle", "latest", FILES)
    oci_registry.users, oci_registry.tokens = {"me": "secret"}, tokens
    account = OciCredentials(username="me", password="secret")  # type: ignore[arg-type]
    (await fetch_artifact(cache, client(oci_registry, account=account))).close()
    wrong = OciCredentials(username="me", password="wrong")  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="401") as caught:
        await fetch_artifact(cache, client(oci_registry, account=wrong))
    assert "wrong" not in str(caught.value)


async def test_anonymous_token_is_enough_for_a_public_repository(cache: Cache, oci_registry: OciRegistry):
    oci_registry.push("org/bundle", "latest", FILES)
    oci_registry.users, oci_registry.tokens, oci_registry.anonymous_pull = {"me": "secret"}, True, True
    (await fetch_artifact(cache, client(oci_registry))).close()


async def test_account_of_an_auth_file_is_used(
    cache: Cache, oci_registry: OciRegistry, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    import base64
    import json

    oci_registry.push("org/bundle", "latest", FILES)
    oci_registry.users, oci_registry.tokens = {"me": "secret"}, True
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {oci_registry.address: {"auth": base64.b64encode(b"me:secret").decode()}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
    (await fetch_artifact(cache, client(oci_registry))).close()


async def test_disk_image_in_a_registry_is_fetched_once_and_goes_on_where_it_broke(
    cache: Cache, oci_registry: OciRegistry
):
    content = disk_content()
    packed = gzip.compress(content, 1)
    oci_registry.push("org/disk", "v1", {"disk.img.gz": packed})
    oci_registry.cut[digest_of(packed)] = len(packed) // 2 + MIB // 2
    for _ in range(2):
        image = await fetch_oci_image(cache, client(oci_registry, "org/disk:v1"), Wanted())
        assert written(image) == content
        image.close()
    ranges = [asked for method, path, _, asked in oci_registry.requests if "/blobs/" in path]
    assert len(ranges) == 2
    assert ranges[0] == ""
    assert ranges[1].startswith("bytes=1")


async def test_damaged_disk_image_is_refused(cache: Cache, oci_registry: OciRegistry):
    content = disk_content()
    oci_registry.push("org/disk", "v1", {"disk.img": content})
    oci_registry.corrupt.add(digest_of(content))
    with pytest.raises(ChecksumMismatch):
        await fetch_oci_image(cache, client(oci_registry, "org/disk:v1"), Wanted())


async def test_one_of_several_images_is_named_by_its_title(cache: Cache, oci_registry: OciRegistry):
    oci_registry.push("org/disk", "v1", {"a.img": disk_content(), "b.img": disk_content(seed=2)})
    image = await fetch_oci_image(cache, client(oci_registry, "org/disk:v1#b.img"), Wanted())
    assert written(image) == disk_content(seed=2)
    with pytest.raises(RegistryError, match=r"2 files \(a.img, b.img\)"):
        await fetch_oci_image(cache, client(oci_registry, "org/disk:v1"), Wanted())
