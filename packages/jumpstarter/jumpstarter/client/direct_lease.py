"""Stands in for a lease where an exporter is reached without a controller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, to_thread
from anyio.from_thread import BlockingPortal

if TYPE_CHECKING:
    from jumpstarter.client.base import DriverClient
    from jumpstarter.common.tls import TLSConfigV1Alpha1


@dataclass(kw_only=True)
class DirectLease:
    """Stands for a lease where an exporter is reached directly over TCP, without a controller."""

    address: str
    """`host:port` of the exporter."""
    portal: BlockingPortal
    allow: list[str]
    unsafe: bool
    tls_config: TLSConfigV1Alpha1 | None = None
    grpc_options: dict[str, Any] = field(default_factory=dict)
    insecure: bool = False
    """Speak plain text."""
    passphrase: str | None = field(default=None, repr=False)

    name: str = field(init=False, default="direct")
    exporter_name: str = field(init=False, default="direct")
    exporter_labels: dict[str, str] = field(init=False, default_factory=dict)
    release: bool = field(init=False, default=False)
    lease_ending_callback: Any = field(init=False, default=None)
    lease_ended: bool = field(init=False, default=False)
    lease_transferred: bool = field(init=False, default=False)

    @asynccontextmanager
    async def serve_unix_async(self) -> AsyncGenerator[str, None]:
        """Yield the address, to which clients connect themselves."""
        yield self.address

    @asynccontextmanager
    async def monitor_async(self, threshold: timedelta = timedelta(minutes=5)) -> AsyncGenerator[None, None]:
        """Do nothing while the body runs: there is no end to watch for."""
        yield

    @asynccontextmanager
    async def connect_async(self, stack: ExitStack) -> AsyncGenerator[DriverClient, None]:
        """Yield the root client of the exporter.

        Args:
            stack: holds what the client opens.

        Raises:
            ExporterUnreachableError: the exporter gives no answer.
        """
        from .client import client_from_path

        async with client_from_path(
            self.address,
            self.portal,
            stack,
            allow=self.allow,
            unsafe=self.unsafe,
            tls_config=self.tls_config,
            grpc_options=self.grpc_options,
            insecure=self.insecure,
            passphrase=self.passphrase,
        ) as client:
            try:
                yield client
            finally:
                with CancelScope(shield=True):
                    await to_thread.run_sync(client.close)

    @contextmanager
    def connect(self) -> Generator[DriverClient, None, None]:
        """Yield the root client of the exporter; errors as of `connect_async`."""
        with ExitStack() as stack, self.portal.wrap_async_context_manager(self.connect_async(stack)) as client:
            yield client
