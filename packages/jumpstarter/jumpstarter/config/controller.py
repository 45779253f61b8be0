"""What the controller does for a client config: calls, each over a channel of its own, and leases that are held.

The calls themselves are in `jumpstarter.client.controller`, one module per thing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from jumpstarter.client.controller import Calls
from jumpstarter.client.controller.exporters import ExporterCalls
from jumpstarter.client.controller.following import FollowingCalls
from jumpstarter.client.controller.leases import LeaseCalls
from jumpstarter.client.controller.tokens import TokenCalls

from .env import JMP_LEASE
from .environment import CLIENT, read

if TYPE_CHECKING:
    import grpc
    from anyio.from_thread import BlockingPortal

    from jumpstarter.client import Lease as ClientLease
    from jumpstarter.client.states import LeaseState

    from .client import ClientConfigV1Alpha1Drivers, ClientConfigV1Alpha1Lease
    from .common import ObjectMeta
    from .tls import TLSConfigV1Alpha1

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

DEFAULT_DURATION = timedelta(minutes=30)


def _blocking_outside_loops(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Any]:
    """Make a coroutine method return its result where no event loop runs, and a coroutine where one does."""

    @wraps(method)
    def either(self: C, *args: P.args, **kwargs: P.kwargs) -> Any:
        from asyncio import get_running_loop

        try:
            get_running_loop()
        except RuntimeError:
            import anyio

            return anyio.run(lambda: method(self, *args, **kwargs))
        return method(self, *args, **kwargs)

    return either


class ControllerClient(ExporterCalls, LeaseCalls, TokenCalls, FollowingCalls):
    """The part of a client config that reaches the controller; the config gives it what it declares here."""

    if TYPE_CHECKING:
        metadata: ObjectMeta
        tls: TLSConfigV1Alpha1
        grpcOptions: dict[str, str | int] | None
        drivers: ClientConfigV1Alpha1Drivers
        leases: ClientConfigV1Alpha1Lease

    async def channel(self) -> grpc.aio.Channel:
        """Open a channel to the controller.

        Raises:
            ConfigurationError: endpoint or token is missing.
        """
        from .serving import controller_channel

        return await controller_channel("Client", self)

    @contextmanager
    def _named_in_errors(self) -> Generator[None, None, None]:
        """Have an error tell which config it came about with, for a command that can log in again and repeat."""
        from jumpstarter.common.exceptions import JumpstarterException

        try:
            yield
        except JumpstarterException as error:
            if error.get_config() is None:
                error.set_config(self)
            raise

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[Calls, None]:
        from jumpstarter.client.grpc import ClientService

        with self._named_in_errors():
            async with (
                await self.channel() as channel,
                ClientService(channel=channel, namespace=self.metadata.namespace)._calls() as calls,
            ):
                yield calls

    get_exporter = _blocking_outside_loops(ExporterCalls.get_exporter)
    list_exporters = _blocking_outside_loops(ExporterCalls.list_exporters)
    get_lease = _blocking_outside_loops(LeaseCalls.get_lease)
    list_leases = _blocking_outside_loops(LeaseCalls.list_leases)
    create_lease = _blocking_outside_loops(LeaseCalls.create_lease)
    update_lease = _blocking_outside_loops(LeaseCalls.update_lease)
    delete_lease = _blocking_outside_loops(LeaseCalls.delete_lease)
    rotate_token = _blocking_outside_loops(TokenCalls.rotate_token)
    lease_state = _blocking_outside_loops(FollowingCalls.lease_state)
    list_lease_states = _blocking_outside_loops(FollowingCalls.list_lease_states)
    list_exporter_states = _blocking_outside_loops(FollowingCalls.list_exporter_states)
    exporter_state = _blocking_outside_loops(FollowingCalls.exporter_state)
    share_lease = _blocking_outside_loops(FollowingCalls.share_lease)

    async def _wait_for_lease(self, name: str, timeout: timedelta | None = None) -> LeaseState:
        """Wait until a lease of this client has its exporter; what it waits for is shown on stderr.

        Args:
            name: the lease, which is left as it is whatever happens.
            timeout: how long to wait; default from the config.

        Raises:
            LeaseError: it has ended, can't be satisfied, or the time was over; the message says why.
        """
        from jumpstarter.client.lease import Lease

        limit = self.leases.acquisition_timeout if timeout is None else timeout.total_seconds()
        with self._named_in_errors():
            async with await self.channel() as channel:
                lease = Lease(
                    channel=channel,
                    duration=DEFAULT_DURATION,
                    selector=None,
                    name=name,
                    release=False,
                    # Serves the blocking methods, of which none is called here.
                    portal=cast(Any, None),
                    namespace=cast(str, self.metadata.namespace),
                    client_name=self.metadata.name,
                    allow=[],
                    unsafe=False,
                    tls_config=self.tls,
                    acquisition_timeout=limit,
                )
                await lease.request_async()
                return await lease.svc.lease_state(name)

    wait_for_lease = _blocking_outside_loops(_wait_for_lease)

    @contextmanager
    def lease(
        self,
        selector: str | None = None,
        exporter_name: str | None = None,
        lease_name: str | None = None,
        duration: timedelta = DEFAULT_DURATION,
    ) -> Generator[ClientLease, None, None]:
        """Hold a lease while the body runs, from an event loop in a thread of its own; see `lease_async`."""
        from .serving import in_portal

        with in_portal(lambda portal: self.lease_async(selector, exporter_name, lease_name, duration, portal)) as lease:
            yield lease

    @asynccontextmanager
    async def lease_async(
        self,
        selector: str | None,
        exporter_name: str | None,
        lease_name: str | None,
        duration: timedelta,
        portal: BlockingPortal,
        acquisition_timeout: timedelta | None = None,
        retry_timeout: timedelta | None = None,
        dial_timeout: timedelta | None = None,
    ) -> AsyncGenerator[ClientLease, None]:
        """Hold a lease while the body runs.

        Args:
            selector: label selector that the exporter has to match.
            exporter_name: name of the exporter.
            lease_name: an existing lease, which is not released in the end; default `$JMP_LEASE`.
            duration: how long the lease may last, from when the exporter is acquired.
            portal: portal of the event loop that this runs on.
            acquisition_timeout: how long to wait for the exporter; default from the config.
            retry_timeout: how long to try again when the exporter can't be reached; default from
                the environment, then the config.
            dial_timeout: how long to try to connect to the exporter; default likewise.

        Raises:
            LeaseError: no lease could be had; the message says why.
            ConfigurationError: endpoint or token is missing.
        """
        from jumpstarter.client.lease import Lease

        existing = lease_name or os.environ.get(JMP_LEASE) or None
        environment = {path: value for path, value in read(CLIENT).items() if path[0] == "leases" and len(path) == 2}

        def seconds(given: timedelta | None, member: str) -> float:
            if given is not None:
                return given.total_seconds()
            return float(environment.get(("leases", member), getattr(self.leases, member)))

        with self._named_in_errors():
            async with (
                await self.channel() as channel,
                Lease(
                    channel=channel,
                    duration=duration,
                    selector=selector,
                    requested_exporter_name=exporter_name,
                    name=existing,
                    release=existing is None,
                    portal=portal,
                    namespace=cast(str, self.metadata.namespace),
                    client_name=self.metadata.name,
                    allow=self.drivers.allow,
                    unsafe=self.drivers.unsafe,
                    tls_config=self.tls,
                    grpc_options=self.grpcOptions or {},
                    acquisition_timeout=seconds(acquisition_timeout, "acquisition_timeout"),
                    retry_timeout=seconds(retry_timeout, "retry_timeout"),
                    dial_timeout=seconds(dial_timeout, "dial_timeout"),
                ) as lease,
            ):
                yield lease
