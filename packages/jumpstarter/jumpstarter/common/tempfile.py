"""Private socket paths and listeners that live as long as a context."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio.abc import AnyByteStream, Listener, SocketAttribute
from anyio.streams.stapled import MultiListener

from ..streams.sockets import SocketByteListener
from ..streams.unix import create_unix_listener
from .exceptions import ConfigurationError
from .owned_directory import OwnedDirectory

__all__ = ["TemporarySocket", "TemporaryTcpListener", "TemporaryUnixListener"]

logger = logging.getLogger(__name__)

AddressFamily = Literal[socket.AddressFamily.AF_UNSPEC, socket.AddressFamily.AF_INET, socket.AddressFamily.AF_INET6]

Handler = Callable[[Any], Awaitable[Any]]
"""Serves one accepted connection; the stream that it gets is closed when it returns or raises."""

MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that fit into `sun_path` beside its final zero (unix(7): 108 on Linux, 104 on macOS and the BSDs)."""

ACCEPT_PAUSE = 0.1
"""Seconds to wait before accepting again when the process ran out of descriptors or memory."""

_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO, errno.EINTR}


@contextmanager
def TemporarySocket() -> Iterator[Path]:
    """Yield the path of a Unix socket that doesn't exist yet, in a directory that only this user can enter.

    The directory is removed with all it holds when the context ends, or by the next process when this one is killed.

    Raises:
        ConfigurationError: the temporary directory has so long a name that no socket can be made in it.
    """
    with OwnedDirectory() as folder:
        path = folder.path / "socket"
        _check_length(path)
        yield path


def _check_length(path: str | PathLike[str]) -> None:
    if (length := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"the path of the Unix socket {os.fspath(path)} is {length} bytes long, but the system takes at most "
            f"{MAX_SOCKET_PATH}; choose a shorter one, or set TMPDIR to a directory with a short name such as /tmp"
        )


@asynccontextmanager
async def TemporaryUnixListener(handler: Handler, path: str | PathLike[str] | None = None) -> AsyncIterator[Path]:
    """Listen on a Unix socket while the context lasts and yield its path.

    Args:
        handler: called with an anyio byte stream for each connection. Its failure is logged and ends this connection
            alone. Connections that are open when the context ends are cancelled.
        path: where to listen, readable and writable by this user alone; default is a fresh private directory.

    Raises:
        ConfigurationError: the path is too long for a Unix socket.
        OSError: the path can't be bound.
    """
    if path is None:
        with TemporarySocket() as private:
            async with TemporaryUnixListener(handler, private):
                yield private
        return
    _check_length(path)
    path = Path(path)
    listener = await create_unix_listener(path)
    try:
        async with _serving([listener], handler, str(path)):
            yield path
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def TemporaryTcpListener(
    handler: Handler,
    local_host: str = "127.0.0.1",
    local_port: int = 0,
    family: AddressFamily = socket.AddressFamily.AF_UNSPEC,
    backlog: int = 65536,
    reuse_port: bool = False,
) -> AsyncIterator[tuple[str, int]]:
    """Listen on a TCP port while the context lasts and yield the local address, `(host, port)` first of all.

    Args:
        handler: as for `TemporaryUnixListener`.
        local_host: name or address to bind; loopback unless told otherwise.
        local_port: 1 to 65535, or 0 for a free port.
        family: address family when `local_host` has several.
        backlog: connections that the kernel keeps until they are accepted; it applies a limit of its own.
        reuse_port: let other listeners that ask for it too share the port. Off, so that a port that is taken is an
            error instead of a port whose connections go to either of two programs.

    Raises:
        OSError: the address can't be bound; the text names it.
    """
    try:
        multi: MultiListener[Any] = await anyio.create_tcp_listener(
            local_host=local_host, local_port=local_port, family=family, backlog=backlog, reuse_port=reuse_port
        )
    except OSError as error:
        message = f"can't listen on {local_host} port {local_port}: {error.strerror or error}"
        raise OSError(error.errno, message) from error
    address: Any = multi.listeners[0].extra(SocketAttribute.local_address)
    # Connections as plain sockets, which can be forwarded without a transport in between.
    listeners: list[Listener[Any]] = [
        SocketByteListener(socket.socket(fileno=os.dup(each.extra(SocketAttribute.raw_socket).fileno())))
        for each in multi.listeners
    ]
    await multi.aclose()
    async with _serving(listeners, handler, f"{address[0]}:{address[1]}"):
        yield address


@asynccontextmanager
async def _serving(listeners: list[Listener[Any]], handler: Handler, name: str) -> AsyncIterator[None]:
    """Accept on all listeners while the context lasts; an error of the body leaves it as it is, in no group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        for listener in listeners:
            tasks.start_soon(_accept, listener, handler, name)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again below, outside of the task group)
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # breaks the cycle of exception, traceback and frame


async def _accept(listener: Listener[Any], handler: Handler, name: str) -> None:
    async with listener, anyio.create_task_group() as connections:
        while True:
            try:
                # Every accepted stream must reach its task, so that it's closed whatever happens.
                await listener.serve(lambda stream: _serve_one(stream, handler, name), connections)
            except OSError as error:
                if error.errno not in _TRANSIENT:
                    raise
                logger.warning("can't accept a connection to %s: %s; trying again", name, error)
                await anyio.sleep(ACCEPT_PAUSE)


async def _serve_one(stream: AnyByteStream, handler: Handler, name: str) -> None:
    try:
        async with stream:
            await handler(stream)
    except Exception as error:  # one connection must not end the others
        logger.warning("a connection to %s failed: %s", name, _text(error))
        logger.debug("details of the failed connection to %s", name, exc_info=error)


def _text(error: BaseException) -> str:
    """One line for an exception; the members of a group instead of the group."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_text(member) for member in error.exceptions))
    return str(error) or type(error).__name__
