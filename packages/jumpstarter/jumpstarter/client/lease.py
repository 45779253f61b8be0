"""Leases: acquiring one, connecting to its exporter through the router, and giving it back whatever happens."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import grpc
from anyio import CancelScope, create_task_group, fail_after, move_on_after, sleep, to_thread
from anyio.abc import ObjectStream
from anyio.from_thread import BlockingPortal
from jumpstarter_protocol.jumpstarter.v1 import jumpstarter_pb2, jumpstarter_pb2_grpc

from jumpstarter.common.cancellation import answer
from jumpstarter.common.condition import condition_false, condition_message, condition_present_and_equal, condition_true
from jumpstarter.common.enums import ExporterStatus
from jumpstarter.common.exceptions import ConnectionError, ExporterOfflineError, ExporterUnreachableError
from jumpstarter.common.grpc import translate_grpc_exceptions
from jumpstarter.common.router import RouterChannels
from jumpstarter.common.tls import TLSConfigV1Alpha1

from . import local_paths
from .direct_lease import DirectLease
from .direct_path import serve_path
from .exceptions import LeaseError, LeaseTimeoutError
from .grpc import ClientService
from .lease_watch import ANSWER_DELAY, Clock, watch
from .records import TIME_FORMAT
from .records import Lease as LeaseRecord
from .retry import passing, pauses
from .selectors import same_selector
from .spinner import LeaseAcquisitionSpinner
from .states import LeaseState, end_reason

if TYPE_CHECKING:
    from jumpstarter.client.base import DriverClient

__all__ = ["DirectLease", "Lease", "LeaseAcquisitionSpinner"]

logger = logging.getLogger(__name__)

FIRST_POLL, LONGEST_POLL = 0.1, 5.0
"""Seconds between two looks at a pending lease, at first and after a while."""

RELEASE_TIMEOUT = 30.0
"""Seconds for which releasing a lease is tried."""

UNDO_TIMEOUT = 3.0
"""Seconds for which releasing a lease is tried when the controller never confirmed that there is one."""

SHARED_ROLES = ("driver", "watcher")
"""As which a client may use the lease of another one."""

DIAL_FIRST, DIAL_LONGEST = 0.3, 2.0
"""Seconds before a connection to the exporter is tried again, at first and after a while."""


def new_lease_name() -> str:
    """Return a UUIDv7 (RFC 9562, 5.7), as controllers choose for leases, so that names sort by age."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


@dataclass(kw_only=True)
class Lease:
    """The right to an exporter for a time, and the way to it; a context manager, blocking and asynchronous.

    Entering requests the lease and waits for its exporter; leaving releases it if `release` is set.
    Blocking methods run on the event loop of `portal`.
    """

    channel: grpc.aio.Channel
    """To the controller, with the credentials of the client."""
    duration: timedelta
    selector: str | None
    portal: BlockingPortal
    namespace: str
    allow: list[str]
    """Globs of the client classes that may be imported."""
    unsafe: bool
    """Import any client class."""
    name: str | None = None
    """An existing lease to use; None for a new one, whose name is filled in."""
    release: bool = True
    tls_config: TLSConfigV1Alpha1 = field(default_factory=TLSConfigV1Alpha1)
    """Trust settings for the router."""
    grpc_options: dict[str, Any] = field(default_factory=dict)
    requested_exporter_name: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    client_name: str | None = None
    """Name of this client; an existing lease of another one is refused."""
    acquisition_timeout: float = 7200
    """Seconds to wait for an exporter."""
    dial_timeout: float = 30
    """Seconds for which connecting to the exporter is tried."""
    retry_timeout: float = 300
    """Seconds for which callers try a new lease when the exporter can't be reached."""

    controller: Any = field(init=False)
    svc: ClientService = field(init=False)
    exporter_name: str = field(init=False, default="remote")
    """Name of the exporter, once it is acquired."""
    exporter_labels: dict[str, str] = field(init=False, default_factory=dict)
    lease_ending_callback: Callable[[Lease, timedelta], None] | None = field(init=False, default=None)
    """Called by the monitor with the lease and the time that is left, when the end is near and when it has come."""
    lease_ended: bool = field(init=False, default=False)
    lease_transferred: bool = field(init=False, default=False)
    """The lease belongs to another client now."""
    role: str = field(init=False, default="owner")
    """As which this client has the lease: `owner`, `driver` or `watcher`."""
    ending_notice: str = field(init=False, default="")
    """What there is to say when `lease_ending_callback` is called."""

    def __post_init__(self) -> None:
        self._requested = self._answered = False
        self._clock = Clock()
        self._looked = 0.0
        self._routers = RouterChannels(self.tls_config, self.grpc_options)
        self._dial_error: Exception | None = None
        self.refresh_channel(self.channel)

    @property
    def manager(self) -> ClientService:
        """Another name of `svc`."""
        return self.svc

    def refresh_channel(self, channel: grpc.aio.Channel) -> None:
        """Use another channel to the controller from now on, one with a newer token say."""
        self.channel = channel
        self.controller = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
        self.svc = ClientService(channel=channel, namespace=self.namespace)

    # -- acquiring and releasing -----------------------------------------------------------------

    async def get(self) -> LeaseRecord:
        """Return what the controller knows of this lease.

        Raises:
            ConnectionError: it can't be asked.
        """
        return await self.svc.GetLease(name=self._name)

    @property
    def _name(self) -> str:
        if self.name is None:
            raise LeaseError("the lease was not requested yet")
        return self.name

    def request(self) -> Lease:
        """Request the lease and wait for its exporter; see `request_async`."""
        return self.portal.call(self.request_async)

    async def request_async(self) -> Lease:
        """Request the lease, or look up the existing one, and wait for its exporter.

        Raises:
            LeaseError: the lease can't be had; a new one was released again. Also when the time was over.
            ConnectionError: the controller refuses.
        """
        try:
            with LeaseAcquisitionSpinner(self.name) as spinner:
                try:
                    with fail_after(self.acquisition_timeout):
                        await self._request(spinner)
                except TimeoutError as error:
                    raise LeaseTimeoutError(
                        f"lease {self.name}: no exporter was acquired within {self.acquisition_timeout:g} s"
                        f"{f' ({spinner.message})' if spinner.message else ''}"
                    ) from error.__cause__
        except BaseException:
            if self._requested:
                await self._release(RELEASE_TIMEOUT if self._answered else UNDO_TIMEOUT)
            raise
        return self

    async def _request(self, spinner: LeaseAcquisitionSpinner) -> None:
        existing = None
        if self.name is not None:
            existing = await self.svc.lease_state(self.name)
            self._check_usable(existing)
            if self.selector and not same_selector(existing.selector, self.selector):
                logger.warning(
                    "lease %s has the selector '%s' and not '%s'; a new lease is requested",
                    self.name,
                    existing.selector,
                    self.selector,
                )
                existing, self.name, self.release, self.role = None, None, True, "owner"
        if existing is None:
            await self._create(spinner)
        await self._acquire(spinner)

    def _check_usable(self, lease: LeaseState) -> None:
        if self.client_name and lease.client and lease.client != self.client_name:
            if lease.role not in SHARED_ROLES:
                raise LeaseError(
                    f"lease {lease.name} belongs to client '{lease.client}', and this is '{self.client_name}'; its "
                    f"owner can share it with: jmp update lease {lease.name} --share {self.client_name}, or hand it "
                    f"over with: jmp update lease {lease.name} --to-client {self.client_name}"
                )
            # Only its owner may give it back.
            self.role, self.release = lease.role, False
        self._check_not_ended(lease)

    def _check_not_ended(self, lease: LeaseState) -> None:
        reason = end_reason(lease)
        if reason is None:
            return
        ended = f" at {lease.here(lease.effective_end_time):{TIME_FORMAT}}" if lease.effective_end_time else ""
        why = condition_message(lease.conditions, "Ready") or reason
        raise LeaseError(f"lease {lease.name} has ended{ended}: {why}; request a new one")

    async def _create(self, spinner: LeaseAcquisitionSpinner) -> None:
        # The name is chosen here, so that a request whose answer got lost, or that was cancelled, can be undone.
        name = new_lease_name()

        self.name = spinner.lease_name = name
        self._requested, self._answered = True, False
        try:
            lease = await self.svc.CreateLease(
                selector=self.selector,
                exporter_name=self.requested_exporter_name,
                duration=self.duration,
                lease_id=name,
                tags=self.tags or None,
            )
        except ConnectionError as error:
            if not passing(error):
                self.name, self._requested = None, False
            raise
        self._answered = True
        self.name = spinner.lease_name = lease.name
        logger.debug("lease %s requested", self.name)

    async def _acquire(self, spinner: LeaseAcquisitionSpinner) -> None:
        """Wait for the exporter, with the wait being shown."""
        states: list[LeaseState] = []
        failure: Exception | None = None
        self._looked = self._clock.monotonic()
        async with create_task_group() as tasks:
            tasks.start_soon(spinner.keep_current)
            try:
                states.append(await self._wait(spinner))
            except Exception as error:  # noqa: BLE001 (raised again below, outside of the task group)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        await self._describe_exporter(states[0])

    async def _wait(self, spinner: LeaseAcquisitionSpinner) -> LeaseState:
        """Return the state with the exporter: told by the controller or, where it can't tell, found by looking."""
        looking, waits, polls = False, pauses(), self._poll_pauses()
        while True:
            try:
                state = await (self._look(spinner) if looking else self._follow(spinner))
                if state is not None:
                    return state
                waits, text = pauses(), "" if looking else "the controller ended the watch"
            except ConnectionError as error:
                if error.status == "UNIMPLEMENTED" and not looking:
                    looking = True
                    continue
                if not passing(error):
                    raise
                text = error.message
            if text:
                spinner.update_status(f"still waiting: {text}; trying again")
            await sleep(next(waits) if text else next(polls))

    async def _follow(self, spinner: LeaseAcquisitionSpinner) -> LeaseState | None:
        """Follow the lease; None when the controller ended that without having granted it."""
        name = self._name
        async with aclosing(self.svc.watch_lease(name)) as states:
            async for state in states:
                if state.now is not None:
                    self._clock.observe(state.now, ANSWER_DELAY)
                if await self._judge(state, spinner):
                    return state
                if self._name != name:
                    return await self._follow(spinner)
        return None

    async def _look(self, spinner: LeaseAcquisitionSpinner) -> LeaseState | None:
        state = LeaseState.of(await self.get(), self.client_name)
        if not await self._judge(state, spinner):
            self._looked = self._clock.monotonic()
            return None
        if self._requested and state.effective_begin_time is not None:
            self._clock.observe(state.effective_begin_time, self._clock.monotonic() - self._looked)
        return state

    @staticmethod
    def _poll_pauses() -> Generator[float, None, None]:
        delay = FIRST_POLL
        while True:
            yield delay
            delay = min(delay * 1.5, LONGEST_POLL)

    async def _judge(self, state: LeaseState, spinner: LeaseAcquisitionSpinner) -> bool:
        """Tell whether the lease has its exporter; show what it waits for.

        Raises:
            LeaseError: it will never have it.
        """
        self._check_not_ended(state)
        if condition_true(state.conditions, "Ready"):
            return True
        if not await self._recreated(state, spinner):
            if state.ended:
                raise LeaseError(f"lease {state.name} has ended: {state.reason or 'no reason given'}")
            spinner.update_status(
                f"waiting: {state.waiting_text(remaining=False)}", lambda: f"waiting: {state.waiting_text()}"
            )
        return False

    async def _recreated(self, lease: LeaseState, spinner: LeaseAcquisitionSpinner) -> bool:
        """Raise what a condition says against this lease; True when a new lease was made in its place."""
        conditions = lease.conditions
        if condition_true(conditions, "Unsatisfiable"):
            if self._requested and condition_present_and_equal(conditions, "Unsatisfiable", "True", "NoExporter"):
                # Older controllers say this of an exporter that is on its way as well.
                spinner.update_status("no exporter yet; trying again")
                await sleep(5)
                await self._release()
                await self._create(spinner)
                return True
            raise LeaseError(
                f"the lease cannot be satisfied: {condition_message(conditions, 'Unsatisfiable') or 'no reason given'}"
            )
        if condition_true(conditions, "Invalid"):
            raise LeaseError(f"the lease is invalid: {condition_message(conditions, 'Invalid') or 'no reason given'}")
        if condition_false(conditions, "Pending"):
            raise LeaseError(
                f"lease {lease.name} is not pending and not ready: "
                f"{condition_message(conditions, 'Pending') or 'no reason given'}"
            )
        return False

    async def _describe_exporter(self, lease: LeaseState) -> None:
        self.exporter_name = lease.exporter or self.exporter_name
        if not lease.exporter:
            return
        try:
            self.exporter_labels = (await self.svc.GetExporter(name=lease.exporter)).labels
        except ConnectionError as error:
            logger.warning("the labels of exporter %s are not known: %s", lease.exporter, error)

    async def __aenter__(self) -> Lease:
        return await self.request_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._routers.aclose()
        if self.release and self.name is not None:
            await self._release()

    async def _release(self, timeout: float = RELEASE_TIMEOUT) -> None:
        """Give the lease back, also while being cancelled; failing that, it ends by its duration."""
        if self.lease_transferred:
            return
        waits = pauses()
        self._requested = False
        reason = "the controller gave no answer"
        with move_on_after(timeout, shield=True):
            while True:
                try:
                    await self.svc.DeleteLease(name=self._name)
                    return
                except ConnectionError as error:
                    if not passing(error):
                        # It has ended by itself, or is not ours any more: what was wanted, or not to be changed.
                        logger.debug("lease %s was not released: %s", self.name, error)
                        return
                    reason = error.message
                except grpc.aio.UsageError as error:
                    reason = str(error)  # the channel was closed before the lease
                    break
                await sleep(next(waits))
        logger.warning("lease %s could not be released and ends by its duration: %s", self.name, reason)

    def __enter__(self) -> Self:
        self.portal.call(self.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.portal.call(self.__aexit__, kind, error, traceback)

    # -- connecting ------------------------------------------------------------------------------

    async def handle_async(self, stream: ObjectStream[bytes]) -> None:
        """Connect `stream` to the exporter through the router until both directions have ended.

        Raises:
            ConnectionError: the exporter can't be reached; the message says why.
        """
        if self.lease_transferred and self._dial_error is not None:
            # Said once; what still tries to connect, such as the watch over the exporter's status, is turned away.
            logger.debug("connection refused: %s", self._dial_error)
            return
        try:
            response = await self._dial()
            self._dial_error = None
        except ConnectionError as error:
            self._dial_error = error
            raise
        try:
            async with self._routers.connect(response.router_endpoint, response.router_token, stream):
                pass
        except ConnectionError as error:
            self._dial_error = error
            raise

    async def _dial(self) -> jumpstarter_pb2.DialResponse:
        """Ask the controller for a way to the exporter, again while the exporter is on its way.

        Raises:
            ConnectionError: there is none.
        """
        delay = DIAL_FIRST
        reason = "the controller gave no answer"
        with move_on_after(self.dial_timeout):
            while True:
                try:
                    with translate_grpc_exceptions():
                        request = jumpstarter_pb2.DialRequest(lease_name=self._name)
                        response: jumpstarter_pb2.DialResponse = await answer(self.controller.Dial(request))
                        return response
                except ConnectionError as error:
                    self._check_dial(error)
                    reason = error.details or error.message
                await sleep(delay * random.uniform(0.8, 1))
                delay = min(delay * 2, DIAL_LONGEST)
        raise ExporterOfflineError(
            f"exporter {self.exporter_name} can't be reached within {self.dial_timeout:g} s: {reason}"
        )

    def _check_dial(self, error: ConnectionError) -> None:
        """Raise unless the exporter may be reachable in a moment."""
        if error.status == "PERMISSION_DENIED" or "permission denied" in error.details.lower():
            self.lease_transferred = True
            if self.role != "owner":
                raise ConnectionError(
                    f"lease {self.name} is not shared with this client any more, so its exporter can't be reached"
                ) from None
            raise ConnectionError(
                f"lease {self.name} belongs to another client now, so its exporter can't be reached any more"
            ) from None
        if error.status == "UNAVAILABLE" and passing(error):
            return
        if error.status == "FAILED_PRECONDITION":
            if "not ready" in error.details.lower():
                return
            raise ExporterOfflineError(f"exporter {self.exporter_name} can't be reached: {error.details}") from None
        raise error

    @asynccontextmanager
    async def serve_unix_async(self) -> AsyncGenerator[Path, None]:
        """Listen on a temporary Unix socket whose connections lead to the exporter; yields its path."""
        async with serve_path(self.handle_async) as path:
            local_paths.patience[str(path)] = self._hook_runs
            try:
                yield path
            finally:
                del local_paths.patience[str(path)]

    async def _hook_runs(self) -> bool:
        """Tell whether the exporter runs its hook before the lease; those of 0.9 let nobody come meanwhile."""
        if self.lease_ended or self.lease_transferred:
            return False
        try:
            exporter = await self.svc.GetExporter(name=self.exporter_name)
        except ConnectionError as error:
            logger.debug("it is not known what exporter %s does: %s", self.exporter_name, error)
            return False
        return exporter.status is ExporterStatus.BEFORE_LEASE_HOOK

    @contextmanager
    def serve_unix(self) -> Generator[Path, None, None]:
        """Listen on a temporary Unix socket whose connections lead to the exporter; yields its path."""
        with self.portal.wrap_async_context_manager(self.serve_unix_async()) as path:
            yield path

    @asynccontextmanager
    async def connect_async(self, stack: ExitStack) -> AsyncGenerator[DriverClient, None]:
        """Yield the root client of the exporter.

        Args:
            stack: holds what the client opens.

        Raises:
            ExporterUnreachableError: the exporter gives no answer.
        """
        from .client import client_from_path

        async with self.serve_unix_async() as path:
            opening = client_from_path(path, self.portal, stack, allow=self.allow, unsafe=self.unsafe, leased=True)
            try:
                client = await opening.__aenter__()
            except ExporterUnreachableError as error:
                if self._dial_error is None:
                    raise
                raise ExporterUnreachableError(
                    f"exporter {self.exporter_name} did not respond: {self._dial_error}"
                ) from error.__cause__
            try:
                yield client
            finally:
                with CancelScope(shield=True):
                    await to_thread.run_sync(client.close)
                    await opening.__aexit__(None, None, None)

    @contextmanager
    def connect(self) -> Generator[DriverClient, None, None]:
        """Yield the root client of the exporter; errors as of `connect_async`."""
        with ExitStack() as stack, self.portal.wrap_async_context_manager(self.connect_async(stack)) as client:
            yield client

    # -- watching --------------------------------------------------------------------------------

    @asynccontextmanager
    async def monitor_async(self, threshold: timedelta = timedelta(minutes=5)) -> AsyncGenerator[None, None]:
        """Watch for the end of the lease while the body runs.

        The end is logged, `lease_ended` is set, and `lease_ending_callback` is called: once when less than
        `threshold` is left and once when it has come.
        """
        failure: Exception | None = None
        async with create_task_group() as tasks:
            tasks.start_soon(watch, self, self._clock, threshold)
            try:
                yield
            except Exception as error:  # noqa: BLE001 (raised again below, outside of the task group)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @contextmanager
    def monitor(self, threshold: timedelta = timedelta(minutes=5)) -> Generator[None, None, None]:
        """Watch for the end of the lease while the body runs; see `monitor_async`."""
        with self.portal.wrap_async_context_manager(self.monitor_async(threshold)):
            yield
