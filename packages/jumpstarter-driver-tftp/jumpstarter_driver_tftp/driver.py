"""TFTP server on the exporter, whose files clients store through the child `storage`."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import anyio
from anyio.from_thread import start_blocking_portal
from jumpstarter.common.exceptions import ConfigurationError, JumpstarterException
from jumpstarter.driver import Driver, export
from jumpstarter_driver_opendal.driver import Opendal

from .files import Directory
from .server import TftpServer

__all__ = ["ServerNotRunning", "Tftp", "TftpError"]


class TftpError(JumpstarterException):
    """The TFTP server can't do what was asked."""


class ServerNotRunning(TftpError):
    """The TFTP server is not running. Kept for programs that catch it; stopping a stopped server is fine."""


@dataclass(kw_only=True)
class Tftp(Driver):
    """Serves the files of a directory, read-only, to devices that boot from the network."""

    driver_type: ClassVar[str] = "network"

    root_dir: str = "/var/lib/tftpboot"
    """Directory of the files; created if missing."""
    host: str = ""
    """Address to bind. Empty: the address of this machine on its default route."""
    port: int = 69
    """UDP port; 0 for one that the system chooses. Ports below 1024 need a privilege."""
    remove_created_on_close: bool = True
    """Remove at the end of the session what was stored in it."""
    max_size: int | str = "64GiB"
    """Most bytes of one stored file."""
    block_size: int = 512
    """Bytes of a block for devices that don't negotiate `blksize`."""
    timeout: float = 5.0
    """Seconds before a retransmission, for devices that don't negotiate `timeout`."""
    retries: int = 3
    """Retransmissions before a transfer is given up."""

    storage: Opendal = field(init=False, repr=False)
    server: TftpServer | None = field(init=False, repr=False, default=None)
    """The running server, None while it is stopped."""

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port of a TFTP server must be 0 to 65535, got {self.port!r}")
        self._running = ExitStack()
        self._lock = threading.RLock()
        self.storage = Opendal(
            scheme="fs",
            kwargs={"root": self.root_dir},
            remove_created_on_close=self.remove_created_on_close,
            max_size=self.max_size,
        )
        self.children["storage"] = self.storage
        if self.host == "":
            from jumpstarter.common.ipaddr import get_ip_address

            self.host = get_ip_address(logger=self.logger)
        try:
            self._new_server()
        except ValueError as error:
            raise ConfigurationError(str(error)) from None

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_tftp.client.TftpServerClient"

    def _new_server(self) -> TftpServer:
        return TftpServer(
            self.host,
            self.port,
            Directory(Path(self.root_dir)),
            block_size=self.block_size,
            timeout=self.timeout,
            retries=self.retries,
            logger=self.logger,
        )

    @export
    def start(self) -> None:
        """Start serving; returns when the server listens. Does nothing if it does already.

        Raises:
            TftpError: the address can't be bound.
        """
        with self._lock:
            if self.server is not None:
                self.logger.warning("TFTP server is already running")
                return
            with ExitStack() as stack:
                # A loop of its own: transfers go on in time whatever the exporter does, and close() works anywhere.
                portal = stack.enter_context(start_blocking_portal(name="tftp-server"))
                try:
                    self.server = stack.enter_context(portal.wrap_async_context_manager(serving(self._new_server())))
                except OSError as error:
                    raise TftpError(self._bind_problem(error)) from None
                self._running = stack.pop_all()

    def _bind_problem(self, error: OSError) -> str:
        advice = "Choose another 'host' or 'port', or stop the program that uses it"
        if isinstance(error, PermissionError):
            advice = (
                "Ports below 1024 need root, the capability CAP_NET_BIND_SERVICE, or the sysctl "
                "net.ipv4.ip_unprivileged_port_start=69"
            )
        return f"TFTP server can't listen on {self.host} port {self.port}: {error.strerror or error}. {advice}"

    @export
    def stop(self) -> None:
        """Stop serving and end all transfers. Does nothing if the server is stopped."""
        with self._lock:
            if self.server is None:
                self.logger.warning("TFTP server is not running")
            self._stop()

    def _stop(self) -> None:
        self.server = None
        self._running.close()

    @export(watch=True)
    def is_running(self) -> bool:
        """Whether the server listens."""
        return self.server is not None

    @export(watch=True)
    def get_host(self) -> str:
        """The address that the server is, or will be, bound to."""
        return self.host

    @export(watch=True)
    def get_port(self) -> int:
        """The UDP port; the real one while the server runs on a port that the system chose."""
        server = self.server
        address = server.address if server is not None else None
        return address[1] if address is not None else self.port

    def close(self) -> None:
        """Stop serving and close the storage."""
        try:
            with self._lock:
                self._stop()
        finally:
            super().close()


@asynccontextmanager
async def serving(server: TftpServer) -> AsyncGenerator[TftpServer, None]:
    """Run a server while the body runs.

    Raises:
        OSError: the address can't be bound.
    """
    failure: OSError | None = None
    async with anyio.create_task_group() as tasks:
        try:
            await tasks.start(server.start)
        except OSError as error:
            failure = error
        else:
            yield server
            await server.shutdown()
    if failure is not None:
        raise failure
