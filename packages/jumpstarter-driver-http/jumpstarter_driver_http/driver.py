"""HTTP file server on the exporter, whose files clients store through the child `storage`."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from jumpstarter.common.exceptions import ConfigurationError, JumpstarterException
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.driver import Opendal

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

__all__ = ["HttpServer", "HttpServerError"]


class HttpServerError(JumpstarterException):
    """The HTTP server can't do what was asked."""


@dataclass(kw_only=True)
class HttpServer(Driver):
    """Serves the files of a directory, read-only, to devices that download them."""

    driver_type: ClassVar[str] = "network"

    root_dir: str = "/var/www"
    """Directory of the files; created if missing."""
    host: str | None = None
    """Address to bind. None: the address of this machine on its default route."""
    port: int = 8080
    """TCP port; 0 for one that the system chooses."""
    advertised_host: str | None = None
    """Host in the URLs that clients are given, where the device reaches the server under another one than `host`."""
    timeout: int = 600
    """Seconds after which a connection without a request is closed."""
    remove_created_on_close: bool = True
    """Remove at the end of the session what was stored in it."""
    max_size: int | str = "64GiB"
    """Most bytes of one stored file."""

    storage: Opendal = field(init=False, repr=False)
    runner: AppRunner | None = field(init=False, repr=False, default=None)
    """The running server, None while it is stopped."""

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port of an HTTP server must be 0 to 65535, got {self.port!r}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or self.timeout <= 0:
            raise ConfigurationError(f"timeout of an HTTP server must be seconds above 0, got {self.timeout!r}")
        self._running = ExitStack()
        self._lock = threading.RLock()
        self._bound_port = 0
        self.storage = Opendal(
            scheme="fs",
            kwargs={"root": self.root_dir},
            remove_created_on_close=self.remove_created_on_close,
            max_size=self.max_size,
        )
        self.children["storage"] = self.storage
        if not self.host:
            from jumpstarter.common.ipaddr import get_ip_address

            self.host = get_ip_address(logger=self.logger)

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_http.client.HttpServerClient"

    @export
    async def start(self) -> None:
        """Start serving; returns when the server listens. Does nothing if it does already.

        Raises:
            HttpServerError: the address can't be bound.
        """
        await to_thread.run_sync(self._start)

    def _start(self) -> None:
        from .server import application, serving

        with self._lock:
            if self.runner is not None:
                self.logger.warning("HTTP server is already running")
                return
            app = application(self.root_dir, timeout=self.timeout, log=self.logger.info)
            with ExitStack() as stack:
                # A loop of its own: downloads don't slow the exporter down, and close() works on any thread.
                portal = stack.enter_context(start_blocking_portal(name="http-server"))
                opened: Any = portal.wrap_async_context_manager(serving(app, str(self.host), self.port))
                try:
                    runner, port = stack.enter_context(opened)
                except OSError as error:
                    raise HttpServerError(
                        f"HTTP server can't listen on {self.host} port {self.port}: {error.strerror or error}. "
                        "Choose another 'host' or 'port', or stop the program that uses it"
                    ) from None
                self.runner, self._bound_port = runner, port
                self._running = stack.pop_all()
            self.logger.info("HTTP server listens at %s", self._url())

    @export
    async def stop(self) -> None:
        """Stop serving. Does nothing if the server is stopped."""
        if self.runner is None:
            self.logger.warning("HTTP server is not running")
        await to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        with self._lock:
            self.runner, self._bound_port = None, 0
            self._running.close()

    @export(watch=True)
    def is_running(self) -> bool:
        """Whether the server listens."""
        return self.runner is not None

    @export(watch=True)
    def get_url(self) -> str:
        """The URL of the served directory, without a slash at the end."""
        return self._url()

    def _url(self) -> str:
        host = self.advertised_host or str(self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._bound_port}"

    @export(watch=True)
    def get_host(self) -> str:
        """The address that the server is, or will be, bound to."""
        return str(self.host)

    @export(watch=True)
    def get_port(self) -> int:
        """The TCP port that the server listens on, 0 while it is stopped."""
        return self._bound_port

    def close(self) -> None:
        """Stop serving and close the storage."""
        try:
            self._stop()
        finally:
            super().close()
