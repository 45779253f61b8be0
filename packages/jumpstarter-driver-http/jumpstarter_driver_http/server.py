"""A read-only HTTP file server for one directory: GET and HEAD with ranges, nothing outside of the directory.

Can be used without Jumpstarter:

    async with serving(application("/srv/images"), "127.0.0.1", 8080) as (runner, port): ...
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from anyio import CancelScope, to_thread
from jumpstarter_driver_opendal.paths import OutsideRoot, confine, is_partial
from multidict import CIMultiDict

__all__ = ["application", "serving"]

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that a download gets to end when the server stops."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _PlainFile(web.FileResponse):
    """A file as it is: never a compressed neighbour of it, which may be older or something else."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        headers = CIMultiDict(request.headers)
        headers.popall("Accept-Encoding", None)
        return await super().prepare(request.clone(headers=headers))


def application(
    root: str | os.PathLike[str], *, timeout: float = 600, log: Callable[..., None] | None = None
) -> web.Application:
    """Make the application that serves `root`.

    Args:
        root: the directory.
        timeout: seconds after which a connection without a request is closed.
        log: takes a format and arguments for every request, as `Logger.info`.
    """
    directory = Path(root)

    def find(name: str) -> Path | int:
        """The file, or the status that says why not."""
        if is_partial(name):
            return 404
        try:
            # `name` is decoded already; as in the storage, `..` and links must stay inside.
            path = Path(confine(directory, name))
            if path.is_dir():
                return 403
            return path if path.is_file() else 404
        except (OutsideRoot, ValueError):
            return 404
        except OSError as error:
            return 403 if error.errno == errno.EACCES else 404

    async def download(request: web.Request) -> web.StreamResponse:
        found = await to_thread.run_sync(find, request.match_info["name"])
        if found == 404:
            raise web.HTTPNotFound
        if isinstance(found, int):
            raise web.HTTPForbidden(text="403: this is a directory, name a file in it\n")
        return _PlainFile(found)

    @web.middleware
    async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            if log is not None:
                log("%s %s %r: %d", request.remote, request.method, request.path, status)

    app = web.Application(
        middlewares=[access_log], handler_args={"keepalive_timeout": timeout, "auto_decompress": False}
    )
    app.router.add_get("/{name:.*}", download)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncGenerator[tuple[web.AppRunner, int], None]:
    """Serve an application while the body runs; yields its runner and the port.

    Raises:
        OSError: the address can't be bound.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    sock = await to_thread.run_sync(_bind, host, port)
    try:
        await runner.setup()
        await web.SockSite(runner, sock).start()
        yield runner, sock.getsockname()[1]
    finally:
        with CancelScope(shield=True):
            await runner.cleanup()
        sock.close()


def _bind(host: str, port: int) -> socket.socket:
    """Bind one address. A host name with several stands for the first, as with the TFTP server."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock
