"""OCI registries: references, the pull side of the distribution protocol, artifacts with files as their layers.

Facts are from the OCI distribution specification 1.1 ("Pull"), the image specification 1.1 (manifest, index,
annotations), and the token protocol of the Distribution project (`distribution.github.io/distribution/spec/auth`).
Whatever is fetched is compared with the digest that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

from anyio import EndOfStream, to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.common.oci import OciCredentials, read_auth_file_credentials
from jumpstarter.common.presigned import TransferFailed, responding

from ..transfer import finish
from .cache import Cache, Entry, NewEntry, no_space
from .download import Progress, Wanted, download
from .ingest import CachedImage, ChecksumMismatch

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

    import aiohttp

__all__ = ["Artifact", "Layer", "Reference", "Registry", "RegistryError", "fetch_artifact", "fetch_oci_image"]

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
logger = logging.getLogger(__name__)

ACCEPT: Final = ", ".join((MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json", *INDEX_TYPES))
TITLE: Final = "org.opencontainers.image.title"
ARCHIVE_TYPES: Final = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip")

MAX_MANIFEST: Final = 4 << 20
"""Bytes of the largest manifest that registries take (distribution specification, "Pushing Manifests")."""

MAX_TOKEN: Final = 1 << 20

BUNDLE_TRIES: Final = 3

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class RegistryError(JumpstarterException, RuntimeError):
    """Something can't be had from a registry."""


class RegistryUnreachable(RegistryError):
    """A registry gives no answer."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is meant in a registry: a tag or, without doubt, a digest."""

    registry: str
    """Host, and port if there is one."""
    repository: str
    tag: str | None = None
    digest: str | None = None
    plain_http: bool = False
    """Whether the registry speaks HTTP without TLS."""
    file: str | None = None
    """One of several files, by its title."""

    @classmethod
    def parse(cls, text: str, plain_http: bool = False) -> Reference:
        """Read a reference such as `quay.io/org/image:tag`, with or without `oci://`; `http://` is without TLS.

        A part after `#` names one of several files. Without a tag and a digest, the tag is `latest`.

        Raises:
            ValueError: it can't be read.
        """
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no reference to an OCI registry")
        scheme, found, rest = text.partition("://")
        if not found:
            scheme, rest = "", text
        if scheme not in ("", "oci", "http", "https"):
            raise ValueError(f"{text!r} is no reference to an OCI registry: unknown scheme {scheme}://")
        rest, _, file = rest.partition("#")
        rest, _, digest = rest.partition("@")
        first, slash, path = rest.partition("/")
        if not (slash and ("." in first or ":" in first or first == "localhost")):
            first, path = "docker.io", rest
        head, colon, tag = path.rpartition(":")
        name, tag = (head, tag) if colon else (path, "")
        if first in ("docker.io", "index.docker.io"):
            first, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
        if (
            not _NAME.fullmatch(name)
            or (digest and not _DIGEST.fullmatch(digest))
            or (colon and not _TAG.fullmatch(tag))
            or not re.fullmatch(r"[A-Za-z0-9.\-\[\]:_]+", first)
        ):
            raise ValueError(
                f"{text!r} is no reference to an OCI registry; it has the form registry/repository:tag "
                "or registry/repository@sha256:..."
            )
        return cls(
            registry=first,
            repository=name,
            tag=None if digest else tag or "latest",
            digest=digest or None,
            plain_http=plain_http or scheme == "http",
            file=file or None,
        )

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    def url(self, path: str) -> str:
        """Return the URL of something in the repository."""
        return f"{'http' if self.plain_http else 'https'}://{self.registry}/v2/{self.repository}/{path}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One file of an artifact."""

    digest: str
    size: int
    media_type: str
    title: str | None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a manifest says."""

    digest: str
    """Of the manifest."""
    layers: tuple[Layer, ...]


class Registry:
    """Reads from the repository of a reference. For one task at a time.

    Args:
        reference: says where.
        credentials: user name and password; else those of container tools' auth files are used.
        tls: an `ssl.SSLContext` for registries that the system doesn't trust.
    """

    def __init__(self, reference: Reference, credentials: OciCredentials | None = None, tls: Any = None) -> None:
        self.reference = reference
        self._credentials = credentials
        self._tls = tls
        self._authorization: str | None = None

    async def artifact(self, digest: str | None = None) -> Artifact:
        """Return what the reference names.

        Args:
            digest: of another manifest in the repository.

        Raises:
            RegistryError: the registry doesn't have it, refuses it, can't be reached, or sends something else.
        """
        wanted = digest or self.reference.digest
        path = f"manifests/{wanted or self.reference.tag}"
        async with self._explained(), self.opening(path, {"Accept": ACCEPT}) as (_, body):
            content = await _read(body, MAX_MANIFEST)
        actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if wanted is not None and actual != wanted:
            raise RegistryError(
                f"the registry sent a manifest with the digest {actual} for {wanted} of {self.reference}: "
                "it, or something on the way, is broken"
            )
        try:
            manifest = json.loads(content)
            if manifest.get("mediaType") in INDEX_TYPES or "manifests" in manifest:
                if digest is not None:
                    raise RegistryError(f"{self.reference} is an index of indexes, which is not supported")
                return await self.artifact(self._from_index(manifest["manifests"]))
            layers = tuple(_layer(each) for each in manifest["layers"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"what {self.reference} names is no OCI manifest ({error!r})") from None
        return Artifact(digest=actual, layers=layers)

    def _from_index(self, manifests: Any) -> str:
        """Return the one manifest of an index."""
        digests = [str(each["digest"]) for each in manifests]
        if len(digests) != 1 or not _DIGEST.fullmatch(digests[0]):
            known = ", ".join(
                f"{(each.get('platform') or {}).get('architecture', 'unknown')} {each['digest']}" for each in manifests
            )
            raise RegistryError(
                f"{self.reference} is an index of {len(digests)} manifests ({known}); "
                f"name one of them: {self.reference.registry}/{self.reference.repository}@sha256:..."
            )
        return digests[0]

    @asynccontextmanager
    async def opening(
        self, path: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[tuple[aiohttp.ClientResponse, ObjectStream[bytes]], None]:
        """GET something of the repository, with a token if the registry wants one.

        Raises:
            TransferFailed, TimeoutError: it can't be had.
        """
        url = self.reference.url(path)
        if self._authorization is None:
            try:
                async with responding(url, headers, tls=self._tls) as answer:
                    yield answer
                    return
            except TransferFailed as error:
                if error.status != 401:
                    raise
                self._authorization = await self._log_in(error)
        async with responding(url, {**headers, "Authorization": self._authorization}, tls=self._tls) as answer:
            yield answer

    async def _log_in(self, refused: TransferFailed) -> str:
        """Return the `Authorization` header that a refused request asks for."""
        credentials = self._credentials
        if credentials is None:
            credentials = await to_thread.run_sync(read_auth_file_credentials, f"oci://{self.reference}")
        basic = _basic(credentials) if credentials.is_authenticated else None
        challenge = refused.headers.get("WWW-Authenticate", "")
        scheme, _, text = challenge.partition(" ")
        if scheme.lower() == "basic":
            if basic is None:
                raise refused
            return basic
        values = dict(re.findall(r'(\w+)="([^"]*)"', text))
        if scheme.lower() != "bearer" or "realm" not in values:
            raise refused
        realm = urlsplit(values["realm"])
        if realm.scheme != "https" and not (realm.scheme == "http" and self.reference.plain_http):
            raise RegistryError(
                f"the registry of {self.reference} wants the password sent to {realm.scheme}://{realm.netloc}, "
                "which is not encrypted"
            )
        scope = values.get("scope") or f"repository:{self.reference.repository}:pull"
        query = urlencode({**({"service": values["service"]} if "service" in values else {}), "scope": scope})
        url = f"{values['realm']}{'&' if realm.query else '?'}{query}"
        headers = {"Authorization": basic} if basic else {}
        async with responding(url, headers, tls=self._tls) as (_, body):
            answer = json.loads(await _read(body, MAX_TOKEN))
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise RegistryError(f"the registry of {self.reference} gave no token")
        return f"Bearer {token}"

    @asynccontextmanager
    async def _explained(self) -> AsyncGenerator[None, None]:
        """Say what a refusal means."""
        try:
            yield
        except TransferFailed as error:
            advice = {
                401: "Log in to it on the exporter (podman login, oras login), or check user name and password",
                403: "The account may not read this repository",
                404: "Check the name and the tag",
            }.get(error.status or 0)
            if error.status is None:
                advice = "Can the exporter reach the registry? One without TLS needs http:// before its name"
                raise RegistryUnreachable(f"can't get {self.reference}: {error}. {advice}") from None
            raise RegistryError(f"can't get {self.reference}: {error}" + (f". {advice}" if advice else "")) from None
        except TimeoutError as error:
            raise RegistryUnreachable(f"can't get {self.reference}: {error}") from None


def _basic(credentials: OciCredentials) -> str:
    from base64 import b64encode

    return f"Basic {b64encode(f'{credentials.username}:{credentials.plain_password}'.encode()).decode()}"


def _layer(value: Mapping[str, Any]) -> Layer:
    digest, size = str(value["digest"]), int(value["size"])
    if not _DIGEST.fullmatch(digest) or size < 0:
        raise ValueError(f"layer with the digest {digest!r} and the size {size}")
    title = (value.get("annotations") or {}).get(TITLE)
    return Layer(digest=digest, size=size, media_type=str(value.get("mediaType", "")), title=title)


async def _read(body: ObjectStream[bytes], limit: int) -> bytes:
    content = bytearray()
    while True:
        try:
            content += await body.receive()
        except EndOfStream:
            return bytes(content)
        if len(content) > limit:
            raise RegistryError(f"the registry's answer has more than {limit} bytes")


# -- artifacts whose layers are files ------------------------------------------------------------


async def fetch_artifact(cache: Cache, registry: Registry, report: Progress | None = None) -> Entry:
    """Return a cache entry with all files of an artifact, fetched unless the cache has it.

    When the registry can't be reached, what a tag named the last time is used, if it is still there.

    Args:
        cache: where it goes.
        registry: has it.
        report: is told how far the transfer is.

    Raises:
        RegistryError: the registry refuses it, or sends something else than the manifest says.
        CacheError: the cache can't take it.
    """
    reference = registry.reference
    name = f"artifact {reference.url('')} {reference}"
    note = await to_thread.run_sync(cache.note, name)
    digest = reference.digest
    if digest is not None and (entry := await to_thread.run_sync(cache.get, _artifact_key(digest))) is not None:
        return entry
    try:
        artifact = await registry.artifact()
    except RegistryUnreachable as error:
        entry = await to_thread.run_sync(cache.get, _artifact_key(note["digest"])) if "digest" in note else None
        if entry is None:
            raise
        logger.warning("%s. Using what it had the last time, %s", error, note["digest"])
        return entry
    entry = await to_thread.run_sync(cache.get, _artifact_key(artifact.digest))
    if entry is None:
        entry = await _build(cache, registry, artifact, report or (lambda done, total: None))
    if note.get("digest") != artifact.digest:
        await to_thread.run_sync(cache.write_note, name, {"digest": artifact.digest})
    return entry


def _artifact_key(digest: str) -> str:
    return f"artifact1-{digest.removeprefix('sha256:')}"


async def _build(cache: Cache, registry: Registry, artifact: Artifact, report: Progress) -> Entry:
    named = [layer for layer in artifact.layers if layer.title]
    if not named:
        raise RegistryError(
            f"{registry.reference} holds no files: none of its {len(artifact.layers)} layers has the annotation "
            f"{TITLE}. Push them with 'oras push'"
        )
    paths = [_safe(registry.reference, str(layer.title)) for layer in named]
    total, done = sum(layer.size for layer in named), 0
    new: NewEntry = await to_thread.run_sync(cache.build)
    try:
        for layer, path in zip(named, paths, strict=True):
            await _fetch_layer(registry, layer, new, new.path / path, partial(_shift, report, done, total))
            done += layer.size
        facts = {"digest": artifact.digest, "reference": str(registry.reference), "files": [str(p) for p in paths]}
        return await to_thread.run_sync(new.commit, _artifact_key(artifact.digest), facts)
    finally:
        await finish(new.close)


def _shift(report: Progress, before: int, total: int, done: int) -> None:
    report(before + done, total)


def _safe(reference: Reference, title: str) -> Path:
    parts = Path(title).parts
    if (
        not parts
        or ".." in parts
        or title.startswith("/")
        or "\0" in title
        or parts[0] in ("entry.json", ".owner.lock")
    ):
        raise RegistryError(f"{reference} holds a file called {title!r}, which is no name inside of a directory")
    return Path(*parts)


async def _fetch_layer(registry: Registry, layer: Layer, new: NewEntry, path: Path, report: Any) -> None:
    """Write a layer to a file, or unpack it into a directory, once its digest is right."""
    for attempt in range(BUNDLE_TRIES):
        try:
            async with registry._explained(), registry.opening(f"blobs/{layer.digest}", {}) as (_, body):
                await _save(registry.reference, layer, new, path, body, report)
            break
        except (RegistryError, ConnectionAbortedError):
            await to_thread.run_sync(partial(path.unlink, missing_ok=True))
            if attempt == BUNDLE_TRIES - 1:
                raise
    if layer.media_type in ARCHIVE_TYPES:
        await to_thread.run_sync(_unpack, path, registry.reference)


async def _save(
    reference: Reference, layer: Layer, new: NewEntry, path: Path, body: ObjectStream[bytes], report: Any
) -> None:
    digest, size = hashlib.sha256(), 0
    await to_thread.run_sync(new.reserve, layer.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                chunk = await body.receive()
            except EndOfStream:
                break
            size += len(chunk)
            if size > layer.size:
                break
            digest.update(chunk)
            await to_thread.run_sync(os.write, descriptor, chunk)
            report(size)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        raise no_space(error, path.parent) from None
    finally:
        os.close(descriptor)
    if size != layer.size or f"sha256:{digest.hexdigest()}" != layer.digest:
        raise RegistryError(
            f"{layer.title or layer.digest} of {reference} arrived damaged: {size} bytes with the digest "
            f"sha256:{digest.hexdigest()}, its manifest says {layer.size} bytes with {layer.digest}"
        )


def _unpack(path: Path, reference: Reference) -> None:
    """Replace an archive, which stands for a directory that was pushed, by what is in it."""
    import tarfile

    archive = path.with_name(f".{path.name}.archive")
    path.rename(archive)
    path.mkdir()
    try:
        with tarfile.open(archive) as tar:
            # A pushed directory is an archive with the directory itself in it.
            members = tar.getmembers()
            inside = all(member.name.split("/")[0] == path.name for member in members)
            for member in members:
                _extract(tar, member, path.parent if inside else path)
    except (tarfile.TarError, OSError) as error:
        raise RegistryError(f"{path.name} of {reference} can't be unpacked: {error}") from None
    finally:
        archive.unlink()


def _extract(tar: TarFile, member: TarInfo, root: Path) -> None:
    """Extract a file or directory to its place below a directory; nothing else, and nowhere else.

    The filters of `tarfile` are younger than the first releases of Python 3.11.
    """
    import tarfile

    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        raise tarfile.TarError(f"{member.name} lies outside of it")
    target = root / place
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise tarfile.TarError(f"{member.name} is neither a file nor a directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("xb") as file:
        shutil.copyfileobj(content, file)


# -- artifacts that are disk images --------------------------------------------------------------


async def fetch_oci_image(
    cache: Cache, registry: Registry, wanted: Wanted, report: Progress | None = None
) -> CachedImage:
    """Return the disk image that an artifact holds, fetched unless the cache has it.

    Args:
        cache: where it goes.
        registry: has it; its reference names the file where the artifact has several.
        wanted: what it must be, beside having the digest that the manifest says.
        report: is told how far the transfer is.

    Raises:
        RegistryError: the registry refuses it.
        TransferFailed, TimeoutError: the transfer broke, again and again.
        ImageError: the image is damaged, or not the expected one.
        CacheError: the cache can't take it.
    """
    layer = _image_layer(registry.reference, await registry.artifact())
    digest = layer.digest.removeprefix("sha256:")
    if wanted.sha256 is not None and wanted.sha256.lower() != digest:
        raise ChecksumMismatch(f"the image in {registry.reference} has the SHA-256 {digest}, not {wanted.sha256}")
    wanted = replace(wanted, sha256=digest)
    found = await to_thread.run_sync(wanted.find, cache, digest)
    if found is not None:
        return found
    opener = partial(registry.opening, f"blobs/{layer.digest}")
    async with registry._explained():
        return await download(
            cache, f"blob {layer.digest}", opener, wanted, report=report or (lambda done, total: None), fixed=True
        )


def _image_layer(reference: Reference, artifact: Artifact) -> Layer:
    titles = ", ".join(layer.title or layer.digest for layer in artifact.layers) or "nothing"
    if reference.file is not None:
        for layer in artifact.layers:
            if reference.file in (layer.title, layer.digest):
                return layer
        raise RegistryError(f"{reference} holds no {reference.file!r}; it has {titles}")
    if len(artifact.layers) != 1:
        raise RegistryError(
            f"{reference} holds {len(artifact.layers)} files ({titles}); name the image with '#' and its title"
        )
    return artifact.layers[0]
