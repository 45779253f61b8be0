"""An OCI registry in this process, which speaks the distribution API and can misbehave on request.

Pushing and pulling follow the OCI distribution specification 1.1; tokens follow the Distribution project's protocol
(`distribution.github.io/distribution/spec/auth/token`). Everything is kept in memory.

    with running_registry() as registry:
        registry.push("org/bundle", "latest", {"manifest.yaml": b"..."})
        print(registry.address)
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY_CONFIG = b"{}"


def digest_of(content: bytes) -> str:
    """Return the digest of some content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(kw_only=True)
class OciRegistry:
    """The registry and what it is to do wrong."""

    users: dict[str, str] = field(default_factory=dict)
    """Passwords by user name; without any, everybody may pull and push."""
    tokens: bool = False
    """Ask for a token of the token server instead of a password."""
    anonymous_pull: bool = False
    """Give pull tokens to everybody."""
    address: str = ""
    """Host and port."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    """Media type and content by repository, and tag or digest."""

    requests: list[tuple[str, str, int, str]] = field(default_factory=list)
    """Method, path, status and `Range` of all requests."""
    corrupt: set[str] = field(default_factory=set)
    """Digests of blobs that are sent with a wrong byte."""
    cut: dict[str, int] = field(default_factory=dict)
    """Digests of blobs whose next transfer breaks after so many bytes."""

    _uploads: dict[str, bytearray] = field(default_factory=dict)
    _issued: dict[str, str] = field(default_factory=dict)

    def push(
        self, repository: str, tag: str, files: Mapping[str, bytes], media_type: str = "application/octet-stream"
    ) -> str:
        """Store an artifact as `oras push` makes it, with one layer per file; return its digest."""
        layers = []
        for title, content in files.items():
            self.blobs[digest_of(content)] = content
            layers.append(
                {
                    "mediaType": media_type,
                    "digest": digest_of(content),
                    "size": len(content),
                    "annotations": {"org.opencontainers.image.title": title},
                }
            )
        self.blobs[digest_of(EMPTY_CONFIG)] = EMPTY_CONFIG
        config = {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest_of(EMPTY_CONFIG),
            "size": len(EMPTY_CONFIG),
        }
        return self.push_manifest(
            repository,
            tag,
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": "application/vnd.oci.bundle.v1",
                "config": config,
                "layers": layers,
            },
        )

    def push_manifest(self, repository: str, tag: str, manifest: Mapping[str, Any]) -> str:
        """Store a manifest under a tag and its digest; return that."""
        content = json.dumps(manifest).encode()
        for reference in (tag, digest_of(content)):
            self.manifests[repository, reference] = (str(manifest["mediaType"]), content)
        return digest_of(content)

    def pulls(self, what: str = "/blobs/") -> list[str]:
        """Return the paths of GET requests for blobs, or whatever is in the path."""
        return [path for method, path, _, _ in self.requests if method == "GET" and what in path]

    # -- the server ------------------------------------------------------------------------------

    def application(self) -> web.Application:
        """Return the web application."""

        @web.middleware
        async def log(request: web.Request, handler: Any) -> web.StreamResponse:
            status = 500
            try:
                response: web.StreamResponse = await handler(request)
                status = response.status
                return response
            except web.HTTPException as error:
                status = error.status
                raise
            finally:
                self.requests.append((request.method, request.path, status, request.headers.get("Range", "")))

        app = web.Application(middlewares=[log], client_max_size=1 << 30)
        name = "{name:[a-z0-9/._-]+}"
        app.router.add_get("/token", self._token)
        app.router.add_get("/v2/", self._guarded(self._version))
        app.router.add_get(f"/v2/{name}/blobs/{{digest}}", self._guarded(self._get_blob))
        app.router.add_post(f"/v2/{name}/blobs/uploads/", self._guarded(self._start_upload))
        app.router.add_patch(f"/v2/{name}/blobs/uploads/{{upload}}", self._guarded(self._append))
        app.router.add_put(f"/v2/{name}/blobs/uploads/{{upload}}", self._guarded(self._finish_upload))
        app.router.add_get(f"/v2/{name}/manifests/{{reference}}", self._guarded(self._get_manifest))
        app.router.add_put(f"/v2/{name}/manifests/{{reference}}", self._guarded(self._put_manifest))
        return app

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self.users or self._allowed(request):
                response: web.StreamResponse = await handler(request)
                return response
            challenge = 'Basic realm="registry"'
            if self.tokens:
                action = "pull" if request.method in ("GET", "HEAD") else "pull,push"
                challenge = (
                    f'Bearer realm="http://{self.address}/token",service="{self.address}",'
                    f'scope="repository:{request.match_info.get("name", "")}:{action}"'
                )
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})

        return guarded

    def _allowed(self, request: web.Request) -> bool:
        header = request.headers.get("Authorization", "")
        if self.tokens:
            scope = self._issued.get(header.removeprefix("Bearer "), "")
            pulls = request.method in ("GET", "HEAD")
            return f":{request.match_info.get('name', '')}:" in scope and (pulls or "push" in scope)
        return self._user(header) is not None

    def _user(self, header: str) -> str | None:
        try:
            user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            return None
        return user if user and self.users.get(user) == password else None

    async def _token(self, request: web.Request) -> web.Response:
        scope = request.query.get("scope", "")
        if self._user(request.headers.get("Authorization", "")) is None and (
            "Authorization" in request.headers or not self.anonymous_pull or "push" in scope
        ):
            return _error(401, "UNAUTHORIZED")
        token = secrets.token_urlsafe()
        self._issued[token] = scope
        return web.json_response({"token": token, "expires_in": 300})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    async def _get_manifest(self, request: web.Request) -> web.Response:
        found = self.manifests.get((request.match_info["name"], request.match_info["reference"]))
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN")
        media_type, content = found
        return web.Response(
            body=content, headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(content)}
        )

    async def _put_manifest(self, request: web.Request) -> web.Response:
        content = await request.read()
        name, reference = request.match_info["name"], request.match_info["reference"]
        for layer in [json.loads(content).get("config"), *json.loads(content).get("layers", [])]:
            if layer and layer["digest"] not in self.blobs:
                return _error(400, "MANIFEST_BLOB_UNKNOWN")
        for key in (reference, digest_of(content)):
            self.manifests[name, key] = (request.content_type, content)
        return web.Response(
            status=201,
            headers={"Location": f"/v2/{name}/manifests/{reference}", "Docker-Content-Digest": digest_of(content)},
        )

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        content = self.blobs.get(digest)
        if content is None:
            return _error(404, "BLOB_UNKNOWN")
        if digest in self.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            start = int(match[1])
            if start >= len(content):
                return _error(416, "RANGE_INVALID", {"Content-Range": f"bytes */{len(content)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - start)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        end = min(start + self.cut.pop(digest), len(content)) if digest in self.cut else len(content)
        for position in range(start, end, 1 << 18):
            await response.write(content[position : min(position + (1 << 18), end)])
        if end < len(content) and request.transport is not None:
            await asyncio.sleep(0.05)
            request.transport.close()
        return response

    async def _start_upload(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if (mounted := request.query.get("mount", "")) in self.blobs:
            return web.Response(status=201, headers={"Location": f"/v2/{name}/blobs/{mounted}"})
        upload = secrets.token_hex(8)
        self._uploads[upload] = bytearray()
        return self._upload_state(name, upload)

    def _upload_state(self, name: str, upload: str) -> web.Response:
        size = len(self._uploads[upload])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{max(size - 1, 0)}"}
        return web.Response(status=202, headers={**headers, "Docker-Upload-UUID": upload})

    async def _append(self, request: web.Request) -> web.Response:
        upload = request.match_info["upload"]
        if upload not in self._uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        self._uploads[upload] += await request.read()
        return self._upload_state(request.match_info["name"], upload)

    async def _finish_upload(self, request: web.Request) -> web.Response:
        upload = request.match_info["upload"]
        if upload not in self._uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        content = bytes(self._uploads.pop(upload)) + await request.read()
        digest = request.query.get("digest", "")
        if digest_of(content) != digest:
            return _error(400, "DIGEST_INVALID")
        self.blobs[digest] = content
        location = f"/v2/{request.match_info['name']}/blobs/{digest}"
        return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": code.lower()}]}, status=status, headers=headers)


@contextmanager
def running_registry(registry: OciRegistry | None = None) -> Iterator[OciRegistry]:
    """Serve a registry on a free port of loopback, without TLS, while the body runs."""
    registry = registry or OciRegistry()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []
    runners: list[web.AppRunner] = []

    async def start() -> None:
        runner = web.AppRunner(registry.application(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        registry.address = f"127.0.0.1:{runner.addresses[0][1]}"

    def serve() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(start())
        except BaseException as error:  # noqa: BLE001 (told to the thread that waits)
            failures.append(error)
        ready.set()
        if not failures:
            loop.run_forever()
        for runner in runners:
            loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, name="oci-registry", daemon=True)
    thread.start()
    if not ready.wait(30):
        raise RuntimeError("the registry did not start within 30 s")
    if failures:
        raise failures[0]
    try:
        yield registry
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


@pytest.fixture
def oci_registry() -> Iterator[OciRegistry]:
    """An OCI registry without accounts; tests may give it some, and faults."""
    with running_registry() as registry:
        yield registry
