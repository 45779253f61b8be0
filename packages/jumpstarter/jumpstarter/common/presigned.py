"""HTTP transfers that the exporter makes for a client: reading from or writing to a presigned URL."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group, to_thread
from anyio.abc import ObjectStream

from jumpstarter.streams.common import create_memory_stream
from jumpstarter.streams.progress import ProgressAttribute, ProgressStream

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from .resources import PresignedRequestResource

__all__ = ["HostPolicy", "TransferFailed", "presigned_stream", "redacted", "responding"]

logger = logging.getLogger(__name__)

HostPolicy = Callable[[str], None]
"""Looks at the host name or address of a URL before it's connected to; raises PermissionError to refuse."""

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})

SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization", "x-amz-", "x-ms-", "x-goog-")
"""Beginnings of the names, in lower case, of headers that are for the first origin alone."""

PLAIN_HEADERS = ("accept", "if-", "range", "user-agent")
"""Beginnings of the names, in lower case, of headers that hold no secrets whoever adds them."""

CONNECT_TIMEOUT = 30.0
"""Seconds that a server has to accept a connection."""

READ_TIMEOUT = 60.0
"""Seconds that a server may take to go on with a body, where the transfer has no limit as a whole."""

MEMORY_LIMIT = 16 << 20
"""Bytes of an upload of unknown length that are kept in memory; what exceeds them goes to a temporary file."""

HOSTS_VARIABLE = "JMP_PRESIGNED_HOSTS"
"""Comma-separated host name patterns that an exporter may transfer from and to; all but link-local ones if unset."""


class TransferFailed(RuntimeError):
    """An HTTP transfer failed; the text tells method, URL without its query, and status or cause.

    Attributes:
        status: what the server answered; None when there was no answer, or no whole one.
        headers: of that answer.
    """

    def __init__(self, message: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers: Mapping[str, str] = {} if headers is None else headers


@asynccontextmanager
async def responding(
    url: str, headers: Mapping[str, str], *, tls: Any = None, policy: HostPolicy | None = None
) -> AsyncGenerator[tuple[aiohttp.ClientResponse, ObjectStream[bytes]], None]:
    """GET a URL for a client; yield the response at the end of all redirects, and its body.

    Args:
        url: its percent-encoding is left alone.
        headers: those that may hold secrets, which are all but a few, are sent to the first origin alone.
        tls: an `ssl.SSLContext`; None for the system's authorities.
        policy: which hosts may be connected to; default are those of `JMP_PRESIGNED_HOSTS`.

    Raises:
        TransferFailed: the server refused it, can't be reached, or the body broke off.
        TimeoutError: no connection, or a minute without a byte.
    """
    import aiohttp

    from .resources import PresignedRequestResource

    resource = PresignedRequestResource(headers=dict(headers), url=url, method="GET")
    # What a user adds, such as a token of a code forge, is for the server that the URL names.
    request = _Request(resource, policy or allowed_host, lambda name: not name.startswith(PLAIN_HEADERS))
    connector = aiohttp.TCPConnector(resolver=_guarded_resolver(), ssl=True if tls is None else tls)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
        request.response(session) as response,
    ):
        yield response, _Download(request, response)


@asynccontextmanager
async def presigned_stream(
    resource: PresignedRequestResource, timeout: float, *, policy: HostPolicy | None = None
) -> AsyncGenerator[ObjectStream[bytes], None]:
    """Open the bytes behind a presigned request: to be read for GET, to be written for PUT.

    A GET is asked for before the context begins. A PUT is complete when the context ends, which waits for the
    server's answer; an error inside the context abandons it. Servers such as S3 want to know the length of an upload
    beforehand, so it's collected first, on disk if it's large, unless the headers tell a `Content-Length` or ask for
    `Transfer-Encoding: chunked`.

    Args:
        resource: method, URL and headers as the client gave them; the URL's percent-encoding is left alone.
        timeout: seconds for the whole transfer.
        policy: which hosts may be connected to; default are those of `JMP_PRESIGNED_HOSTS`.

    Raises:
        RuntimeError: the transfer failed. The text tells method, URL without its query, and status or cause.
        TimeoutError: it took longer than `timeout`.
    """
    import aiohttp

    request = _Request(resource, policy or allowed_host)
    with anyio.move_on_after(timeout) as scope:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_guarded_resolver()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            auto_decompress=resource.method == "GET",
        ) as session:
            opened = _download if resource.method == "GET" else _upload
            async with opened(session, request) as stream:
                yield stream
    if scope.cancelled_caught:
        raise TimeoutError(f"{request}: not finished after {timeout:g} s")


def redacted(url: str | URL) -> str:
    """Return a URL that may be shown: without user, password, fragment and the values of its query."""
    from yarl import URL

    try:
        parsed = url if isinstance(url, URL) else URL(url, encoded=True)
        shown = str(parsed.with_user(None).with_query(None).with_fragment(None))
        return f"{shown}?<redacted>" if parsed.raw_query_string else shown
    except ValueError:
        return "<invalid URL>"


def allowed_host(host: str) -> None:
    """Refuse hosts that no pattern of `JMP_PRESIGNED_HOSTS` matches, if that is set."""
    patterns = os.environ.get(HOSTS_VARIABLE)
    if patterns is not None and not any(fnmatchcase(host.lower(), p.strip().lower()) for p in patterns.split(",")):
        raise PermissionError(f"host {host} is not among those that {HOSTS_VARIABLE} of the exporter allows")
    refuse_link_local(host)


def refuse_link_local(host: str) -> None:
    """Refuse addresses that serve a machine its own credentials, as those of cloud providers do."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_link_local or host == "fd00:ec2::254":
        raise PermissionError(f"address {host} is link-local, which an exporter doesn't connect to for a client")


def _guarded_resolver() -> Any:
    """A resolver that finds no link-local address, so that a name can't stand for one."""
    from aiohttp import ThreadedResolver

    class GuardedResolver(ThreadedResolver):
        async def resolve(self, *args: Any, **kwargs: Any) -> Any:
            found = await super().resolve(*args, **kwargs)
            for entry in found:
                refuse_link_local(entry["host"])
            return found

    return GuardedResolver()


class _Request:
    """One HTTP request with its redirects; turns failures into errors without secrets."""

    def __init__(
        self,
        resource: PresignedRequestResource,
        policy: HostPolicy,
        is_secret: Callable[[str], bool] = lambda name: name.startswith(SECRET_HEADERS),
    ) -> None:
        self._is_secret = is_secret
        self.method = resource.method
        self.headers = dict(resource.headers)
        self._url = resource.url
        self._policy = policy

    def __str__(self) -> str:
        return f"{self.method} {redacted(self._url)}"

    def header(self, name: str) -> str | None:
        """Return a header of the client by its name in lower case."""
        return next((value for key, value in self.headers.items() if key.lower() == name), None)

    def fail(self, why: str, response: aiohttp.ClientResponse | None = None) -> TransferFailed:
        status, headers = (response.status, response.headers) if response is not None else (None, None)
        return TransferFailed(f"{self} failed: {why}", status, headers)

    @asynccontextmanager
    async def response(
        self, session: aiohttp.ClientSession, body: Callable[[], Any] | None = None, *, repeatable: bool = True
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Yield the response at the end of all redirects, which has a good status.

        Args:
            session: makes the request.
            body: returns the body anew for each request.
            repeatable: the body can be sent again, after a redirect.

        Raises:
            RuntimeError: there is no such response.
        """
        from yarl import URL

        url, headers, method = self._url, self.headers, self.method
        for _ in range(MAX_REDIRECTS + 1):
            target = self._checked(url)
            response = await self._send(session, method, target, headers, body)
            async with response:
                if response.status not in REDIRECTS:
                    if response.status >= 400:
                        why = f"the server answered {response.status} {response.reason or ''}".rstrip()
                        raise self.fail(why, response)
                    yield response
                    return
                location = response.headers.get("Location")
            if not location:
                raise self.fail(f"the server answered {response.status} without saying where to go (no Location)")
            if method == "PUT" and response.status == 303:
                method, body = "GET", None  # the upload is done, and its result is elsewhere (RFC 9110 15.4.4)
            if body is not None and not repeatable:
                raise self.fail(f"redirected to {redacted(location)} after the body was sent")
            url = urljoin(str(target), location)
            if not _same_origin(target, URL(url, encoded=True)):
                headers = {key: value for key, value in headers.items() if not self._is_secret(key.lower())}
        raise self.fail(f"more than {MAX_REDIRECTS} redirects")

    def _checked(self, url: str) -> URL:
        from yarl import URL

        try:
            target = URL(url, encoded=True)
            host = target.host
            if target.scheme not in ("http", "https") or not host:
                raise ValueError
        except ValueError:
            raise self.fail(f"{redacted(url)} is not an http or https URL") from None
        try:
            self._policy(host)
        except PermissionError as error:
            raise self.fail(str(error)) from None
        return target

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: Callable[[], Any] | None,
    ) -> aiohttp.ClientResponse:
        import aiohttp

        if method == "GET" and not any(key.lower() == "accept-encoding" for key in headers):
            headers = {**headers, "Accept-Encoding": "identity"}  # the file as it is, with its length
        try:
            return await session.request(
                method, url, headers=headers, data=body() if body is not None else None, allow_redirects=False
            )
        except TimeoutError:
            raise TimeoutError(f"{self}: no connection within {CONNECT_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self.fail(_reason(error)) from None


def _same_origin(a: URL, b: URL) -> bool:
    return (a.scheme, a.host, a.port) == (b.scheme, b.host, b.port)


def _reason(error: BaseException) -> str:
    """Say what went wrong in words that hold no URL, as aiohttp's own may."""
    import aiohttp

    match error:
        case PermissionError():
            return str(error)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            inner = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
            detail = getattr(inner, "verify_message", "") or getattr(inner, "strerror", "") or "TLS failed"
            return f"no secure connection: {detail}"
        case aiohttp.ClientConnectorError():
            inner = error.os_error
            # asyncio puts the address in place of the system's text, which says more.
            known = inner.errno if inner.errno in errno.errorcode and not isinstance(inner, socket.gaierror) else None
            return f"can't connect: {os.strerror(known) if known else inner.strerror or inner}"
        case aiohttp.ClientPayloadError():
            return "the connection was lost before the whole body arrived"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection without an answer"
        case aiohttp.ClientOSError():
            return f"the connection was lost: {error.strerror or 'closed by the server'}"
        case _:
            return type(error).__name__


class _Download(ObjectStream[bytes]):
    """The body of a response; received only."""

    def __init__(self, request: _Request, response: aiohttp.ClientResponse) -> None:
        self._request = request
        self._response = response

    async def receive(self) -> bytes:
        import aiohttp

        try:
            chunk = await self._response.content.readany()
        except TimeoutError:
            raise TimeoutError(f"{self._request}: the server sent nothing for {READ_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._request.fail(_reason(error)) from None
        if not chunk:
            raise EndOfStream
        return chunk

    async def send(self, item: bytes) -> None:
        raise BrokenResourceError from TypeError(f"{self._request}: a download can only be read")

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        self._response.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        length = self._response.content_length
        plain = "Content-Encoding" not in self._response.headers
        return {ProgressAttribute.total: lambda: float(length)} if length is not None and plain else {}


@asynccontextmanager
async def _download(session: aiohttp.ClientSession, request: _Request) -> AsyncIterator[ObjectStream[bytes]]:
    async with request.response(session) as response:
        yield ProgressStream(stream=_Download(request, response), logging=True)


@asynccontextmanager
async def _upload(session: aiohttp.ClientSession, request: _Request) -> AsyncIterator[ObjectStream[bytes]]:
    length = request.header("content-length")
    if length is not None or "chunked" in (request.header("transfer-encoding") or "").lower():
        if length is not None and not length.isdecimal():
            raise request.fail(f"its Content-Length {length!r} is not a number")
        # aiohttp sets this header itself for a body of unknown length.
        request.headers = {key: value for key, value in request.headers.items() if key.lower() != "transfer-encoding"}
        async with _streamed(session, request, int(length) if length is not None else None) as stream:
            yield stream
    else:
        async with _collected(session, request) as stream:
            yield stream


class _Collector(ObjectStream[bytes]):
    """Keeps what is sent, in memory first and then in a file; sent only."""

    def __init__(self, request: _Request, file: tempfile.SpooledTemporaryFile[bytes]) -> None:
        self._request = request
        self._file = file
        self.size = 0
        self.ended = False

    async def send(self, item: bytes) -> None:
        if self.ended:
            raise ClosedResourceError
        if self.size + len(item) <= MEMORY_LIMIT:
            self._file.write(item)
        else:
            try:
                await to_thread.run_sync(self._file.write, item)
            except OSError as error:
                folder = tempfile.gettempdir()
                reason = f"can't keep the upload in {folder}, which TMPDIR may change: {error.strerror}"
                raise self._request.fail(reason) from None
        self.size += len(item)

    async def receive(self) -> bytes:
        raise EndOfStream

    async def send_eof(self) -> None:
        self.ended = True

    async def aclose(self) -> None:
        self.ended = True


@asynccontextmanager
async def _collected(session: aiohttp.ClientSession, request: _Request) -> AsyncIterator[ObjectStream[bytes]]:
    """Collect what is sent in the context, then upload it with its length."""
    with tempfile.SpooledTemporaryFile(MEMORY_LIMIT) as file:
        collector = _Collector(request, file)
        stream = ProgressStream(stream=collector, logging=True)
        yield stream
        await stream.aclose()
        request.headers["Content-Length"] = str(collector.size)
        async with request.response(session, lambda: _chunks(file)):
            pass


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    await to_thread.run_sync(file.seek, 0)
    while chunk := await to_thread.run_sync(file.read, 1 << 20):
        yield chunk


@asynccontextmanager
async def _streamed(
    session: aiohttp.ClientSession, request: _Request, length: int | None
) -> AsyncIterator[ObjectStream[bytes]]:
    """Upload what is sent in the context at once."""
    near, far = create_memory_stream()
    counted = ProgressStream(stream=near, logging=True)
    failure: Exception | None = None
    broken: Exception | None = None
    mismatch: Exception | None = None

    async def body() -> AsyncIterator[bytes]:
        nonlocal mismatch
        size = 0
        async for chunk in far:
            size += len(chunk)
            yield chunk
        if length is not None and size != length:
            mismatch = request.fail(f"the driver sent {size} bytes, but its Content-Length is {length}")
            raise mismatch

    async def send() -> None:
        nonlocal failure
        try:
            async with request.response(session, body, repeatable=False):
                pass
        except (RuntimeError, TimeoutError) as error:
            failure = mismatch or error
        finally:
            await far.aclose()

    async with create_task_group() as tasks:
        tasks.start_soon(send)
        try:
            yield counted
            await counted.aclose()
        except Exception as error:  # noqa: BLE001 (raised again below, outside of the task group)
            broken = error
            tasks.cancel_scope.cancel()  # before the stream is closed, which would complete the upload
    if failure is not None and (broken is None or isinstance(broken, BrokenResourceError)):
        raise failure
    if broken is not None:
        raise broken
