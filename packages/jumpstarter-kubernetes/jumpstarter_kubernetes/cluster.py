"""One connection to an API server: objects as plain mappings, watches, and errors that say what to do."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from .access import DEFAULT_NAMESPACE, Access, AccessSource, Direct, InCluster, Kubeconfig
from .exceptions import ClusterError, Gone, KubeconfigError, TooMany, Unauthorized, Unreachable, refused
from .resources import SERVICE_ACCOUNTS, TOKEN_REVIEWS, Resource

if TYPE_CHECKING:
    import aiohttp

REQUEST_TIMEOUT = 30.0
"""Seconds that the server may take for an answer."""

LARGEST_OBJECT = 16 << 20
"""Bytes of one event of a watch; etcd takes objects of 1.5 MiB."""

LARGEST_ANSWER = 512 << 20
"""Bytes of one answer; a list of all leases of a large lab has some 50 MB."""

WATCH_SECONDS = 300
"""After this a watch is ended by the server, and begun anew where it was."""

SILENCE = 30
"""Seconds after which a connection is given up whose other end is gone without a word."""

PATIENCE = 20.0
"""Seconds that are waited in all when the server asks to come again later."""

PatchKind = Literal["merge", "json", "strategic"]

_PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
_APPLY_TYPE = "application/apply-patch+yaml"


@dataclass(frozen=True)
class ObjectList:
    """Objects of a kind, as they were at one moment."""

    items: list[dict[str, Any]]
    version: str
    """From which on a watch tells what happened after it."""
    more: str = ""
    """Continues a list that was limited; empty when this is all."""


@dataclass(frozen=True)
class WatchEvent:
    """A change of an object."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: dict[str, Any]


class Cluster:
    """Asks one API server, as one user; opened as an asynchronous context manager.

    Every request is bounded in time. What the server asks to repeat later (429) is repeated. Credentials are read again
    when the server does not accept them any more.

    Raises, when it is entered:
        KubeconfigError: there is no usable way to a cluster.
    """

    def __init__(self, source: AccessSource) -> None:
        self._source = source
        self._access: Access | None = None
        self._session: aiohttp.ClientSession | None = None
        self._reading = anyio.Lock()

    @classmethod
    def from_config(
        cls, kubeconfig: Path | str | None = None, context: str | None = None, namespace: str | None = None
    ) -> Self:
        """Return a connection as a kubeconfig says; without one, of the pod that this process runs in.

        Args:
            kubeconfig: the file; None for `$KUBECONFIG` or `~/.kube/config`.
            context: None for the current one.
            namespace: the default of requests; None for that of the context.
        """
        config = Kubeconfig(str(kubeconfig or ""), context, namespace)
        if not kubeconfig and not context and not any(file.exists() for file in config.files) and InCluster.present():
            return cls(InCluster(namespace=namespace))
        return cls(config)

    @classmethod
    def direct(
        cls, server: str, *, token: str = "", ca: bytes | None = None, namespace: str = DEFAULT_NAMESPACE
    ) -> Self:
        """Return a connection to a server by its URL.

        Args:
            token: bearer token.
            ca: PEM of the authority that the server's certificate is signed by; None for those of the system.
        """
        context = None
        if server.startswith("https://"):
            context = ssl.create_default_context(cadata=ca.decode() if ca is not None else None)
        authorization = f"Bearer {token}" if token else ""
        access = Access(server.rstrip("/"), namespace=namespace, authorization=authorization, tls=context)
        return cls(Direct(access))

    # -- being there -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        import aiohttp

        self._access = await self._source.read()
        connector = aiohttp.TCPConnector(limit=100, socket_factory=_attentive_socket)
        self._session = aiohttp.ClientSession(
            connector=connector, raise_for_status=False, read_bufsize=1 << 18, auto_decompress=True
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            with anyio.CancelScope(shield=True):
                await self._session.close()
        self._session = None

    @property
    def access(self) -> Access:
        """How the server is reached at present."""
        if self._access is None:
            raise RuntimeError("the connection to the cluster is not open: use `async with`")
        return self._access

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.access.server

    @property
    def context(self) -> str:
        """Name of the kubeconfig's context; empty without one."""
        return self.access.context

    @property
    def namespace(self) -> str:
        """The default of requests."""
        return self.access.namespace

    # -- objects -----------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> dict[str, Any]:
        """Return an object.

        Raises:
            NotFound: there is none.
        """
        return await self._ask(
            "GET", resource.path(self._in(namespace), name), f'get {resource.full_name} "{name}"', repeat=True
        )

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        all_namespaces: bool = False,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        more: str = "",
        version: str = "",
    ) -> ObjectList:
        """Return objects, ordered by namespace and name.

        Args:
            labels: a label selector.
            fields: a field selector.
            limit: 0 for all.
            more: the `more` of the page before.
            version: `0` for whatever the server has at hand, empty for the newest state.

        Raises:
            Gone: the page before was too long ago.
        """
        query = {
            "labelSelector": labels,
            "fieldSelector": fields,
            "limit": str(limit or ""),
            "continue": more,
            "resourceVersion": version,
        }
        path = resource.path(None if all_namespaces else self._in(namespace))
        answer = await self._ask("GET", path, f"list {resource.full_name}", query=query, repeat=True)
        meta = answer.get("metadata") or {}
        items = answer.get("items") or []
        for item in items:
            # Lists of the core kinds leave it out of their items.
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return ObjectList(items, str(meta.get("resourceVersion") or ""), str(meta.get("continue") or ""))

    def watch(
        self,
        resource: Resource,
        *,
        version: str,
        namespace: str | None = None,
        all_namespaces: bool = False,
        labels: str = "",
        fields: str = "",
        timeout: int = WATCH_SECONDS,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Iterate over what happens after a version, until the server ends the watch, which it does after `timeout`.

        Bookmarks tell how far everything has been told.

        Raises, on entering or while iterating:
            Gone: the version is too old; list again.
            Unreachable: the connection was lost.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "labelSelector": labels,
            "fieldSelector": fields,
            "timeoutSeconds": str(timeout),
        }
        path = resource.path(None if all_namespaces else self._in(namespace))
        return self._watch(path, f"watch {resource.full_name}", query, timeout)

    async def create(
        self, resource: Resource, body: Mapping[str, Any], *, namespace: str | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Add an object and return it as the server has it.

        Raises:
            AlreadyExists: there is one of that name.
            Invalid: the object breaks the rules of its kind.
        """
        meta = body.get("metadata") or {}
        place = self._in(namespace or meta.get("namespace"))
        what = f'create {resource.full_name} "{meta.get("name") or meta.get("generateName", "")}"'
        return await self._ask("POST", resource.path(place), what, query=_dry(dry_run), body=_full(resource, body))

    async def replace(
        self, resource: Resource, body: Mapping[str, Any], *, status: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Replace an object, or its status; `metadata.resourceVersion`, if given, is the expected one.

        Raises:
            Conflict: it has changed since.
            NotFound: there is none.
        """
        meta = body["metadata"]
        path = resource.path(self._in(meta.get("namespace")), meta["name"], "status" if status else "")
        what = f'replace {"the status of " if status else ""}{resource.full_name} "{meta["name"]}"'
        return await self._ask("PUT", path, what, query=_dry(dry_run), body=_full(resource, body))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        *,
        namespace: str | None = None,
        kind: PatchKind = "merge",
        status: bool = False,
    ) -> dict[str, Any]:
        """Change parts of an object; a `metadata.resourceVersion` in a merge patch is the expected one.

        Raises:
            Conflict: it has changed since.
            NotFound: there is none.
        """
        path = resource.path(self._in(namespace), name, "status" if status else "")
        what = f'change {"the status of " if status else ""}{resource.full_name} "{name}"'
        return await self._ask("PATCH", path, what, body=patch, content_type=_PATCH_TYPES[kind])

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, manager: str, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Have an object be as described, whatever it was before (server-side apply).

        Args:
            manager: whose fields these are.
            force: take fields over that belong to somebody else.

        Raises:
            Conflict: fields belong to another manager.
        """
        meta = body["metadata"]
        path = resource.path(self._in(meta.get("namespace")), meta["name"])
        query = {"fieldManager": manager, "force": "true" if force else "false", **_dry(dry_run)}
        what = f'apply {resource.full_name} "{meta["name"]}"'
        return await self._ask(
            "PATCH", path, what, query=query, body=_full(resource, body), content_type=_APPLY_TYPE, repeat=True
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str = "",
        version: str = "",
        propagation: str = "",
    ) -> None:
        """Remove an object.

        Args:
            uid: the expected one, empty for any.
            version: the expected one, empty for any.
            propagation: what becomes of what it owns: `Background`, `Foreground` or `Orphan`.

        Raises:
            NotFound: there is none.
            Conflict: it is another one, or has changed.
        """
        conditions = {key: value for key, value in (("uid", uid), ("resourceVersion", version)) if value}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if conditions:
            body["preconditions"] = conditions
        if propagation:
            body["propagationPolicy"] = propagation
        await self._ask(
            "DELETE", resource.path(self._in(namespace), name), f'delete {resource.full_name} "{name}"', body=body
        )

    # -- tokens ------------------------------------------------------------------------------------

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the server knows of a bearer token: `authenticated`, `user`, `audiences`."""
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {**_full(TOKEN_REVIEWS, {}), "spec": spec}
        answer = await self._ask("POST", TOKEN_REVIEWS.path(), "review a token", body=body)
        status: dict[str, Any] = answer.get("status") or {}
        return status

    async def request_token(
        self,
        service_account: str,
        *,
        namespace: str | None = None,
        audiences: Sequence[str] = (),
        seconds: int = 3600,
    ) -> str:
        """Return a token of a service account."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": list(audiences), "expirationSeconds": seconds},
        }
        path = SERVICE_ACCOUNTS.path(self._in(namespace), service_account, "token")
        answer = await self._ask("POST", path, f'make a token of serviceaccounts "{service_account}"', body=body)
        return str(answer["status"]["token"])

    async def server_version(self) -> str:
        """Return the version of the API server, such as `v1.30.0`."""
        answer = await self._ask("GET", "/version", "tell its version", repeat=True)
        return str(answer.get("gitVersion") or "of unknown version")

    # -- asking ------------------------------------------------------------------------------------

    def _in(self, namespace: str | None) -> str:
        return namespace or self.access.namespace

    async def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        repeat: bool = False,
    ) -> dict[str, Any]:
        """Ask once more with fresh credentials when they are refused, and again when the server has too much to do.

        Args:
            repeat: the request may be sent again when it is not known whether it was carried out.
        """
        attempts = 2 if repeat else 1
        waited = 0.0
        renewed = False
        while True:
            try:
                return await self._ask_once(method, path, what, query, body, content_type)
            except Unauthorized:
                if renewed or not await self._renew():
                    raise
                renewed = True
            except TooMany as error:
                pause = min(float(error.details.get("retryAfterSeconds") or 1), 10.0)
                if error.status != 429 or waited + pause > PATIENCE:
                    raise
                waited += pause
                await anyio.sleep(pause)
            except Unreachable:
                attempts -= 1
                if not attempts:
                    raise

    async def _ask_once(
        self, method: str, path: str, what: str, query: Mapping[str, str] | None, body: Any, content_type: str
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        async with self._request(method, path, what, query, data, headers, REQUEST_TIMEOUT) as response:
            content = await self._read(response, what)
        answer = _parsed(content)
        if response.status >= 400:
            raise refused(what, self.server, response.status, _with_pause(answer, response))
        if not isinstance(answer, dict):
            raise ClusterError(
                f"{self.server} answered the request to {what} with something that is no object. "
                "Is this the address of a Kubernetes API server?",
                status=response.status,
            )
        return answer

    @asynccontextmanager
    async def _watch(
        self, path: str, what: str, query: Mapping[str, str], timeout: int
    ) -> AsyncGenerator[AsyncIterator[WatchEvent], None]:
        # The server may end it a little late.
        async with self._request("GET", path, what, query, None, {}, timeout + 60.0) as response:
            if response.status >= 400:
                answer = _parsed(await self._read(response, what))
                raise refused(what, self.server, response.status, _with_pause(answer, response))
            yield self._events(response, what)

    async def _events(self, response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[WatchEvent, None]:
        rest = bytearray()
        while True:
            with self._reached(what):
                chunk = await response.content.readany()
            if not chunk:
                return
            begin = len(rest)
            rest += chunk
            if rest.find(b"\n", begin) < 0:
                if len(rest) > LARGEST_OBJECT:
                    raise ClusterError(f"{self.server} sent an event of more than {LARGEST_OBJECT} bytes to {what}")
                continue
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                if line:
                    yield self._event(line, what)

    async def _read(self, response: aiohttp.ClientResponse, what: str) -> bytes:
        parts = bytearray()
        with self._reached(what):
            while chunk := await response.content.readany():
                parts += chunk
                if len(parts) > LARGEST_ANSWER:
                    break
        if len(parts) > LARGEST_ANSWER:
            raise ClusterError(f"the answer of {self.server} to {what} has more than {LARGEST_ANSWER >> 20} MiB")
        return bytes(parts)

    def _event(self, line: bytes, what: str) -> WatchEvent:
        event = _parsed(line)
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            raise ClusterError(f"{self.server} sent something that is no event to {what}")
        if event.get("type") == "ERROR":
            told = event["object"]
            raise refused(what, self.server, int(told.get("code") or 500), told)
        return WatchEvent(str(event.get("type")), event["object"])

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        import aiohttp
        import yarl

        access = self.access
        assert self._session is not None
        shown = {"Accept": "application/json", **headers}
        if access.authorization:
            shown["Authorization"] = access.authorization
        extra: dict[str, Any] = {}
        if access.tls is not None:
            extra["ssl"] = access.tls
        if access.server_name:
            extra["server_hostname"] = access.server_name
        if access.proxy:
            extra["proxy"] = access.proxy
        with self._reached(what):
            response = await self._session.request(
                method,
                # The path is quoted already.
                yarl.URL(access.server + path, encoded=True),
                params={key: value for key, value in (query or {}).items() if value},
                data=data,
                headers=shown,
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=10.0),
                allow_redirects=False,
                **extra,
            )
        try:
            yield response
        finally:
            # Gives the connection back when the answer was read to its end, and ends it otherwise.
            response.release()

    @contextmanager
    def _reached(self, what: str) -> Generator[None, None, None]:
        """Tell of a connection that fails in the body as what it is."""
        import aiohttp

        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error, self.access, what) from error

    async def _renew(self) -> bool:
        """Read the credentials again; return whether they are other ones."""
        before = self.access
        async with self._reading:
            if self.access is before:
                try:
                    self._access = await self._source.read()
                except KubeconfigError:
                    return False
        return self.access.authorization != before.authorization or self.access.tls is not before.tls

    def at(self, namespace: str) -> Cluster:
        """Return the same connection with another default namespace; it is open as long as this one is."""
        other = Cluster(self._source)
        other._access = replace(self.access, namespace=namespace)
        other._session = self._session
        return other


def _attentive_socket(address: Any) -> socket.socket:
    """Make a socket that notices within SILENCE that the other end is gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENCE // 3),
        ("TCP_KEEPINTVL", SILENCE // 6),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", SILENCE * 1000),
    ):
        # Systems have what they have.
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace").strip()


def _with_pause(answer: Any, response: aiohttp.ClientResponse) -> Any:
    """Return a refusal with the pause that the header asks for."""
    pause = response.headers.get("Retry-After", "")
    if not pause.isdecimal():
        return answer
    told: dict[str, Any] = answer if isinstance(answer, dict) else {"message": str(answer)}
    return {**told, "details": {"retryAfterSeconds": int(pause), **(told.get("details") or {})}}


def _full(resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _unreachable(error: BaseException, access: Access, what: str) -> ClusterError:
    import aiohttp

    if isinstance(error, TimeoutError):
        text = f"{access.server} did not answer in time when asked to {what}"
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = (
            f"the certificate of {access.server} is not trusted: {error.certificate_error}. "
            "Check certificate-authority in the kubeconfig"
        )
    else:
        text = f"can't reach the API server {access.server} to {what}: {error or type(error).__name__}"
    if access.context:
        text += f" (context {access.context!r} of the kubeconfig)"
    return Unreachable(f"{text}. Check that the cluster runs and that the address is right")


__all__ = ["Cluster", "Gone", "ObjectList", "Resource", "WatchEvent"]
