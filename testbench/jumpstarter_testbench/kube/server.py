"""The HTTP face of the stand-in: paths, verbs and watches of the Kubernetes API."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml
from aiohttp import web

from . import selectors
from .kinds import KindInfo
from .objects import NAMESPACES, Objects
from .rights import Attributes, Rights, Tokens, User
from .status import Refusal
from .storage import Event, Object, Storage

BOOKMARKS = 2.0
"""Seconds between two bookmarks of a watch; a real server sends one about every minute."""

LARGEST_REQUEST = 3 << 20
"""Bytes."""

PATCHES = {
    "application/merge-patch+json": "merge",
    "application/json-patch+json": "json",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}

VERSION = {"major": "1", "minor": "30", "gitVersion": "v1.30.0-testbench", "platform": "linux/amd64"}

_WRITES = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass
class Faults:
    """What the server is told to do wrong."""

    refuse_writes: int = 0
    """Answer writes with this HTTP status; 0 for none."""
    throttle: int = 0
    """Refuse so many requests with 429, and ask to come again after a second."""
    delay: float = 0.0
    """Seconds before each answer."""
    lose_answers: int = 0
    """Carry out so many writes, and close the connection instead of answering."""


@dataclass
class _Request:
    kind: KindInfo
    namespace: str
    name: str
    part: str
    query: dict[str, str]
    user: User
    manager: str

    def said(self, name: str) -> bool:
        """Return what a yes-or-no of the query says; everything but `false` and `0` is a yes."""
        return name in self.query and self.query[name].lower() not in ("false", "0")

    @property
    def dry(self) -> bool:
        return self.query.get("dryRun") == "All"


class KubeServer:
    """A server with its objects, as they are kept over `stop` and `start`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, bookmarks: float = BOOKMARKS) -> None:
        self.storage = Storage()
        self.objects = Objects(self.storage)
        self.tokens = Tokens(self.storage)
        self.rights = Rights(self.storage)
        self.faults = Faults()
        self.requests: list[tuple[str, str, str]] = []
        """User, method and path of what was asked, for tests that count."""
        self.port = 0
        self._tls = tls
        self._bookmarks = bookmarks
        self._runner: web.AppRunner | None = None
        self._pages: dict[str, tuple[list[Object], int]] = {}
        for name in ("default", "kube-system"):
            self.objects.create(self.objects.kind(*NAMESPACES[:1], "v1", "namespaces"), "", _named(name), "system")

    # -- being there -------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> None:
        """Listen on loopback, where it was before when it has been."""
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port or self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections, and listen no more; what was kept stays."""
        self.storage.drop_watchers()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """What clients dial."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def install(self, *documents: Object) -> None:
        """Add objects, such as CRDs and namespaces."""
        for document in documents:
            group, _, version = document["apiVersion"].rpartition("/")
            kind = next(
                kind
                for kind in self.objects.kinds()
                if (kind.group, kind.version, kind.kind) == (group, version, document["kind"])
            )
            namespace = document["metadata"].get("namespace", "") if kind.namespaced else ""
            self.objects.create(kind, namespace or ("default" if kind.namespaced else ""), document, "install")

    # -- requests ----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            if self.faults.delay:
                await asyncio.sleep(self.faults.delay)
            user = self._user(request)
            self.requests.append((user.name, request.method, request.path))
            self._fail(request)
            response = await self._answer(request, user)
        except Refusal as refusal:
            headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
            return web.json_response(refusal.body, status=refusal.code, headers=headers)
        if self.faults.lose_answers and request.method in _WRITES:
            self.faults.lose_answers -= 1
            if request.transport is not None:
                request.transport.abort()
        return response

    def _user(self, request: web.Request) -> User:
        if request.path in ("/healthz", "/readyz", "/livez", "/version"):
            return User("system:anonymous", ("system:unauthenticated",))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = self.tokens.user(token.strip()) if scheme.lower() == "bearer" else None
        if known is None:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        return known[0]

    def _fail(self, request: web.Request) -> None:
        if self.faults.throttle:
            self.faults.throttle -= 1
            raise Refusal(429, "TooManyRequests", "the server has received too many requests", retry_after=1)
        if self.faults.refuse_writes and request.method in _WRITES and "tokenreviews" not in request.path:
            raise Refusal(self.faults.refuse_writes, "InternalError", "etcdserver: mvcc: database space exceeded")

    async def _answer(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path.strip("/").split("/")
        if path[0] in ("healthz", "readyz", "livez"):
            return web.Response(text="ok")
        if path == ["version"]:
            return web.json_response(VERSION)
        if path[0] not in ("api", "apis"):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        head = 2 if path[0] == "api" else 3
        if len(path) <= head:
            return web.json_response(self._discovery(path))
        group, version = ("", path[1]) if path[0] == "api" else (path[1], path[2])
        return await self._object(request, user, group, version, path[head:])

    async def _object(
        self, request: web.Request, user: User, group: str, version: str, rest: list[str]
    ) -> web.StreamResponse:
        body = await _body(request)
        special = await self._special(user, group, rest, body)
        if special is not None:
            return web.json_response(special, status=201)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        kind = self.objects.kind(group, version, rest[0])
        if kind.namespaced and not namespace and len(rest) > 1:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        part = rest[2] if len(rest) > 2 else ""
        if part and not (part == "status" and kind.status):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        asked = _Request(
            kind=kind,
            namespace=namespace,
            name=rest[1] if len(rest) > 1 else "",
            part=part,
            query=dict(request.query),
            user=user,
            manager=request.query.get("fieldManager") or request.headers.get("User-Agent", "unknown").partition("/")[0],
        )
        self._check(request, asked)
        if asked.name:
            return await self._one(request, asked, body)
        return await self._many(request, asked, body)

    def _check(self, request: web.Request, asked: _Request) -> None:
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        verb = verbs.get(request.method, request.method.lower())
        if not asked.name:
            if verb == "get":
                verb = "watch" if asked.said("watch") else "list"
            elif verb == "delete":
                verb = "deletecollection"
        resource = asked.kind.plural + (f"/{asked.part}" if asked.part else "")
        namespace = asked.namespace or (asked.name if asked.kind.id == NAMESPACES else "")
        self.rights.check(asked.user, Attributes(verb, asked.kind.group, resource, namespace, asked.name))

    async def _one(self, request: web.Request, asked: _Request, body: Any) -> web.StreamResponse:
        kind, namespace, name = asked.kind, asked.namespace, asked.name
        match request.method:
            case "GET":
                return web.json_response(self.storage.get(kind.id, namespace, name))
            case "PUT":
                item = self.objects.replace(kind, namespace, name, body, asked.manager, asked.part, dry_run=asked.dry)
                return web.json_response(item)
            case "PATCH":
                return self._patch(request, asked, body)
            case "DELETE":
                item = self.objects.delete(kind, namespace, name, body or {}, dry_run=asked.dry)
                if item["metadata"].get("deletionTimestamp"):
                    return web.json_response(item)
                details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": item["metadata"]["uid"]}
                done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
                return web.json_response({**done, "details": details})
            case _:
                raise Refusal(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )

    def _patch(self, request: web.Request, asked: _Request, body: Any) -> web.StreamResponse:
        how = PATCHES.get(request.content_type)
        if how is None:
            text = (
                f"the body of the request was in an unknown format - accepted media types include: {', '.join(PATCHES)}"
            )
            raise Refusal(415, "UnsupportedMediaType", text)
        kind, namespace, name = asked.kind, asked.namespace, asked.name
        if how == "apply":
            manager, force = asked.query.get("fieldManager", ""), asked.said("force")
            item, new = self.objects.apply(
                kind, namespace, name, body, manager, asked.part, force=force, dry_run=asked.dry
            )
            return web.json_response(item, status=201 if new else 200)
        item = self.objects.patch(kind, namespace, name, body, how, asked.manager, asked.part, dry_run=asked.dry)
        return web.json_response(item)

    async def _many(self, request: web.Request, asked: _Request, body: Any) -> web.StreamResponse:
        kind = asked.kind
        matches = self._matches(asked)
        match request.method:
            case "GET" if asked.said("watch"):
                return await self._watch(request, asked, matches)
            case "GET":
                return web.json_response(self._list(asked, matches))
            case "POST":
                if kind.namespaced and not asked.namespace:
                    raise Refusal(405, "MethodNotAllowed", "the server does not allow this method")
                item = self.objects.create(kind, asked.namespace, body, asked.manager, dry_run=asked.dry)
                return web.json_response(item, status=201)
            case "DELETE":
                for item in filter(matches, self.storage.all(kind.id, asked.namespace)):
                    self.objects.delete(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"], {})
                return web.json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
            case _:
                raise Refusal(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )

    def _matches(self, asked: _Request) -> Callable[[Object], bool]:
        labels = selectors.label_test(asked.query.get("labelSelector", ""))
        fields = selectors.field_test(asked.query.get("fieldSelector", ""), asked.kind.kind, asked.kind.selectable)
        return lambda item: labels(item) and fields(item)

    # -- lists -------------------------------------------------------------------------------------

    def _list(self, asked: _Request, matches: Callable[[Object], bool]) -> Object:
        limit = int(asked.query.get("limit") or 0)
        if token := asked.query.get("continue"):
            rest, version = self._page(token)
        else:
            rest = [item for item in self.storage.all(asked.kind.id, asked.namespace) if matches(item)]
            version = self.storage.version
        meta: Object = {"resourceVersion": str(version)}
        if limit and len(rest) > limit:
            first = rest[limit]["metadata"]
            place = f"{version}/{first.get('namespace', '')}/{first['name']}/{len(self._pages)}"
            token = base64.urlsafe_b64encode(place.encode()).decode()
            self._pages[token] = rest[limit:], version
            meta |= {"continue": token, "remainingItemCount": len(rest) - limit}
            rest = rest[:limit]
        return {
            "kind": f"{asked.kind.kind}List",
            "apiVersion": asked.kind.api_version,
            "metadata": meta,
            "items": rest,
        }

    def _page(self, token: str) -> tuple[list[Object], int]:
        if token not in self._pages:
            raise Refusal(400, "BadRequest", "continue key is not valid: illegal base64 data or unknown")
        rest, version = self._pages[token]
        if version < self.storage.oldest:
            text = "The provided continue parameter is too old to display a consistent list result."
            raise Refusal(410, "Expired", text)
        return rest, version

    # -- watches -----------------------------------------------------------------------------------

    async def _watch(
        self, request: web.Request, asked: _Request, matches: Callable[[Object], bool]
    ) -> web.StreamResponse:
        given = asked.query.get("resourceVersion", "")
        if given and not given.isdecimal():
            raise Refusal(400, "BadRequest", f'Invalid value: "{given}": strconv.ParseUint: parsing: invalid syntax')
        watcher = self.storage.add_watcher(asked.kind.id)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for line in self._lines(asked, matches, watcher, int(given or 0)):
                    await response.write(line)
                await response.write_eof()
            return response
        finally:
            self.storage.remove_watcher(watcher)

    async def _lines(
        self, asked: _Request, matches: Callable[[Object], bool], watcher: Any, version: int
    ) -> AsyncIterator[bytes]:
        told = self.storage.version
        try:
            for line in self._past(asked, matches, version):
                yield line
        except Refusal as refusal:
            yield _line("ERROR", refusal.body)
            return
        end = time.monotonic() + float(asked.query.get("timeoutSeconds") or 1800)
        bookmarks = asked.said("allowWatchBookmarks")
        while (left := end - time.monotonic()) > 0:
            try:
                event = await asyncio.wait_for(watcher.queue.get(), min(left, self._bookmarks))
            except TimeoutError:
                if bookmarks:
                    yield self._bookmark(asked.kind)
                continue
            if event is None:
                return
            if event.version > told and (change := self._told(asked, matches, event)):
                yield change

    def _past(self, asked: _Request, matches: Callable[[Object], bool], version: int) -> list[bytes]:
        """Return what a watch begins with: all there is, or what happened since a version.

        Raises:
            Refusal: that is too long ago, or has not come yet.
        """
        if version == 0:
            return [_line("ADDED", item) for item in self.storage.all(asked.kind.id, asked.namespace) if matches(item)]
        if version > self.storage.version:
            text = f"Too large resource version: {version}, current: {self.storage.version}"
            raise Refusal(504, "Timeout", text)
        lines = (self._told(asked, matches, event) for event in self.storage.since(version, asked.kind.id))
        return [line for line in lines if line]

    def _bookmark(self, kind: KindInfo) -> bytes:
        # The queue of the watch was empty just now, so everything up to this version has been told.
        meta = {"resourceVersion": str(self.storage.version), "creationTimestamp": None}
        return _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta})

    def _told(self, asked: _Request, matches: Callable[[Object], bool], event: Event) -> bytes | None:
        """Return what a watcher is told of a change: what ceases to match is gone for it, what begins to is new."""

        def seen(item: Object | None) -> bool:
            if item is None or (asked.namespace and item["metadata"].get("namespace") != asked.namespace):
                return False
            return matches(item)

        before, after = seen(event.old), seen(event.new)
        if after:
            return _line("MODIFIED" if before else "ADDED", event.new or {})
        if before and event.old is not None:
            last = event.old
            meta = {**last["metadata"], "resourceVersion": str(event.version)}
            return _line("DELETED", {**last, "metadata": meta})
        return None

    # -- what is no object -------------------------------------------------------------------------

    async def _special(self, user: User, group: str, rest: Sequence[str], body: Any) -> Object | None:
        if group == "authentication.k8s.io" and rest[0] == "tokenreviews":
            self.rights.check(user, Attributes("create", group, "tokenreviews"))
            spec = (body or {}).get("spec") or {}
            known = self.tokens.user(spec.get("token", ""), spec.get("audiences") or ())
            if known is None:
                return {**body, "status": {"user": {}, "error": "token is not known or has expired"}}
            who: Object = {"username": known[0].name, "uid": known[0].uid, "groups": list(known[0].groups)}
            return {**body, "status": {"authenticated": True, "user": who, "audiences": known[1]}}
        if group == "authorization.k8s.io" and rest[0] == "selfsubjectaccessreviews":
            spec = (body or {}).get("spec") or {}
            attributes = spec.get("resourceAttributes") or {}
            plural = attributes.get("resource", "") + (
                f"/{attributes['subresource']}" if attributes.get("subresource") else ""
            )
            asked = Attributes(
                attributes.get("verb", ""),
                attributes.get("group", ""),
                plural,
                attributes.get("namespace", ""),
                attributes.get("name", ""),
                (spec.get("nonResourceAttributes") or {}).get("path", ""),
            )
            return {**body, "status": {"allowed": self.rights.allowed(user, asked)}}
        if rest[0] == "namespaces" and list(rest[2:3]) == ["serviceaccounts"] and list(rest[4:]) == ["token"]:
            namespace, name = rest[1], rest[3]
            self.rights.check(user, Attributes("create", "", "serviceaccounts/token", namespace, name))
            spec = (body or {}).get("spec") or {}
            seconds = int(spec.get("expirationSeconds") or 3600)
            token, expires = self.tokens.issue(namespace, name, spec.get("audiences") or (), seconds)
            ends = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return {**body, "status": {"token": token, "expirationTimestamp": ends}}
        return None

    def _discovery(self, path: list[str]) -> Object:
        if path == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        groups = sorted({kind.group for kind in self.objects.kinds() if kind.group})
        if path == ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._group(group) for group in groups]}
        if path[0] == "apis" and len(path) == 2:
            if path[1] not in groups:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            return {**self._group(path[1]), "kind": "APIGroup", "apiVersion": "v1"}
        group, version = ("", path[1]) if path[0] == "api" else (path[1], path[2])
        kinds = [kind for kind in self.objects.kinds() if (kind.group, kind.version) == (group, version)]
        if not kinds:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        resources: list[Object] = []
        for kind in kinds:
            entry = {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced}
            resources.append({**entry, "kind": kind.kind, "verbs": verbs})
            if kind.status:
                status = {**entry, "name": f"{kind.plural}/status", "kind": kind.kind}
                resources.append({**status, "verbs": ["get", "patch", "update"]})
        version_name = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version_name, "resources": resources}

    def _group(self, group: str) -> Object:
        versions = sorted({kind.version for kind in self.objects.kinds() if kind.group == group})
        told = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
        return {"name": group, "versions": told, "preferredVersion": told[0]}


async def _body(request: web.Request) -> Any:
    content = await request.read()
    if not content:
        return None
    if len(content) > LARGEST_REQUEST:
        raise Refusal(413, "RequestEntityTooLarge", f"Request entity too large: limit is {LARGEST_REQUEST}")
    try:
        return yaml.safe_load(content) if request.content_type.endswith("yaml") else json.loads(content)
    except (ValueError, yaml.YAMLError) as error:
        raise Refusal(400, "BadRequest", f"couldn't parse the body: {error}") from None


def _line(what: str, item: Object) -> bytes:
    return json.dumps({"type": what, "object": item}, separators=(",", ":")).encode() + b"\n"


def _named(name: str) -> Object:
    return {"metadata": {"name": name}}


__all__ = ["Faults", "KubeServer"]
