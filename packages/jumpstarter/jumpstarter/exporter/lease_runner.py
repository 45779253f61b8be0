"""Carries one lease through the states of `lease_machine`: does what the steps ask for and reports back by events."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskGroup

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.driver.dispatch import details_of

from . import lease_machine
from .hooks import HookExecutionError, HookExecutor, HookType, warning_text
from .lease_machine import Action, Event, State, Step

if TYPE_CHECKING:
    from .lease_context import LeaseContext
    from .session import Session

__all__ = ["LeaseHost", "LeaseRunner"]

logger = logging.getLogger(__name__)

SHOW_TIME = 1.0
"""Seconds that a last status stays to be seen by clients, which ask for it now and then."""

NOTICE_TIME = 5.0
"""Seconds that the client of a lease gets to come and learn that it can't be used, because the hook before it failed.

Clients of 0.9 that come after the end of their lease try again for a long time instead.
"""

HOLD = 10.0
"""Seconds for which clients are kept waiting before the session while the hook before the lease runs.

Those that know of no hooks find the drivers ready when it is a short one, and those of 0.9 learn of a lease that ends
meanwhile at once; when they are connected already they ask for the status for five minutes more. All give up when gRPC
has heard nothing for 20 s.
"""

DRAIN_TIME = 0.5
"""Seconds that connections get to carry what was sent before their session was closed."""

EXIT_PATIENCE = 30.0
"""Seconds that the controller gets to end the lease of an exporter that has to stop."""

MAX_CONNECTIONS = 256
"""Connections of clients at a time; further ones wait at the controller."""


class LeaseHost(Protocol):
    """What a lease needs of its exporter."""

    def open_session(self, context: LeaseContext) -> AbstractAsyncContextManager[Session]:
        """Set up the drivers."""
        ...

    def serve_session(self, context: LeaseContext, session: Session) -> AbstractAsyncContextManager[None]:
        """Serve the drivers and note in the context where."""
        ...

    async def listen(self, context: LeaseContext, accept: Callable[[Any], Any]) -> None:
        """Pass each connection of a client to the coroutine function `accept`."""
        ...

    async def bridge(self, context: LeaseContext, connection: Any) -> None:
        """Connect a client to the session until one of them ends."""
        ...

    def report(self, status: ExporterStatus, message: str) -> None:
        """Tell the controller a status."""
        ...

    async def release(self, runner: LeaseRunner) -> None:
        """Give the lease back."""
        ...

    async def await_release(self, runner: LeaseRunner) -> None:
        """Have the client give the lease back."""
        ...

    def has_direct_clients(self, context: LeaseContext) -> bool:
        """Tell whether clients may be connected past `listen`."""
        ...


@dataclass(kw_only=True)
class LeaseRunner:
    """One lease at work."""

    context: LeaseContext
    host: LeaseHost
    hooks: HookExecutor | None = None
    show_time: float = SHOW_TIME
    """See the constant SHOW_TIME."""
    state: State = field(init=False, default=State.OPENING)
    wants_exit: bool = field(init=False, default=False)
    """The exporter has to stop because of what happened in this lease."""
    failure: Exception | None = field(init=False, default=None)
    """Why the drivers can't be used, if so."""

    def __post_init__(self) -> None:
        self._inbox: deque[tuple[Event, str]] = deque()
        self._news = anyio.Event()
        self._close = anyio.Event()
        self._connections = anyio.CancelScope()
        self._room = anyio.Semaphore(MAX_CONNECTIONS)
        self._open = 0
        self._fewer = anyio.Event()
        self._hook: anyio.CancelScope | None = None
        self._tasks: TaskGroup

    # -- what others tell the lease --------------------------------------------------------------

    def feed(self, event: Event, message: str = "") -> None:
        """Have an event handled."""
        self._inbox.append((event, message))
        self._news.set()

    def lease_ended(self) -> None:
        """Note that the controller took the lease away."""
        if not self.context.lease_ended.is_set():
            self.context.lease_ended.set()
            self.feed(Event.LEASE_ENDED)

    def stop(self) -> None:
        """Bring the lease to its end; a running hook may finish."""
        self.feed(Event.STOP)

    def interrupt(self) -> None:
        """Stop a running hook."""
        self.context.skip_after_lease_hook = True
        if self._hook is not None:
            self._hook.cancel()

    # -- the life of the lease -------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the lease until its session is closed."""
        async with anyio.create_task_group() as self._tasks:
            self._take(lease_machine.FIRST, "")
            while self.state is not State.CLOSED:
                while not self._inbox:
                    self._news = anyio.Event()
                    await self._news.wait()
                event, message = self._inbox.popleft()
                if (step := lease_machine.step(self.state, event)) is not None:
                    logger.debug(
                        "lease %s: %s in %s leads to %s",
                        self.context.lease_name,
                        event.name,
                        self.state.name,
                        step.next,
                    )
                    self._take(step, message)
            self._tasks.cancel_scope.cancel()

    def _take(self, step: Step, message: str) -> None:
        self.state = step.next
        if step.status is not None:
            self._show(step.status, message, session_only=step.session_only)
        for action in step.actions:
            self._act(action)

    def _show(self, status: ExporterStatus, message: str, *, session_only: bool = False) -> None:
        self.context.update_status(status, message)
        if not session_only:
            self.host.report(status, message)

    def _act(self, action: Action) -> None:
        match action:
            case Action.OPEN:
                self._tasks.start_soon(self._serve_session)
            case Action.LISTEN:
                self._tasks.start_soon(self._listen)
            case Action.RUN_BEFORE_HOOK:
                self._start_hook("before_lease")
            case Action.RUN_AFTER_HOOK:
                self._start_hook("after_lease")
            case Action.ADMIT:
                self.context.before_lease_hook.set()
                self._tasks.start_soon(self._watch_session_end)
            case Action.CUT:
                self._connections.cancel()
            case Action.RELEASE:
                self._tasks.start_soon(self._release)
            case Action.AWAIT_RELEASE:
                self._tasks.start_soon(self.host.await_release, self)
            case Action.EXIT:
                self.wants_exit = True
            case Action.CLOSE:
                self._close.set()

    # -- session ---------------------------------------------------------------------------------

    async def _serve_session(self) -> None:
        opened = False
        try:
            async with self.host.open_session(self.context) as session:
                self.context.session = session
                session.lease_context = self.context
                async with self.host.serve_session(self.context, session):
                    opened = True
                    self.feed(Event.OPENED)
                    await self._close.wait()
                    await self.let_clients_see()
                await self._end_connections()
        except Exception as error:
            self.failure = error
            what = "closed" if opened else "set up"
            logger.error("the drivers can't be %s: %s", what, details_of(error), exc_info=error)
            if opened:
                # What state the device is in is not known, so nobody may have it next.
                self.wants_exit = True
            else:
                self.feed(Event.OPEN_FAILED, f"the drivers can't be set up: {details_of(error)}")
        await self._close.wait()
        self.context.session = None
        self.feed(Event.CLOSED)

    async def let_clients_see(self) -> None:
        """Give clients that are connected a moment to ask for the status as it is now."""
        session = self.context.session
        connected = self._open and not self._connections.cancel_called
        if session is not None and (connected or self.host.has_direct_clients(self.context)):
            with anyio.move_on_after(self.show_time):
                await session.wait_status_seen()

    async def _watch_session_end(self) -> None:
        await self.context.end_session_requested.wait()
        self.feed(Event.SESSION_ENDED)

    # -- connections -----------------------------------------------------------------------------

    async def _listen(self) -> None:
        with self._connections:
            async with anyio.create_task_group() as connections:

                async def accept(connection: Any) -> None:
                    await self._room.acquire()
                    self._open += 1
                    connections.start_soon(self._connect, connection)

                await self.host.listen(self.context, accept)

    async def _connect(self, connection: Any) -> None:
        try:
            with anyio.move_on_after(HOLD):
                await self.context.wait_for_drivers()
            await self.host.bridge(self.context, connection)
        except Exception as error:  # noqa: BLE001 (the failure of one connection is no matter of the others)
            logger.warning("lease %s: a connection failed: %s", self.context.lease_name, details_of(error))
        finally:
            self._open -= 1
            self._room.release()
            self._fewer.set()

    async def _end_connections(self) -> None:
        with anyio.move_on_after(DRAIN_TIME):
            while self._open and not self._connections.cancel_called:
                self._fewer = anyio.Event()
                await self._fewer.wait()
        self._connections.cancel()

    # -- hooks and release -----------------------------------------------------------------------

    def _start_hook(self, kind: HookType) -> None:
        before = kind == "before_lease"
        if not before:
            self.context.after_lease_hook_started.set()
        skipped = not before and self.context.skip_after_lease_hook
        if self.hooks is None or not self.hooks.has_hook(kind) or skipped:
            self._hook_over(kind, Event.NO_HOOK, "")
            return
        status = ExporterStatus.BEFORE_LEASE_HOOK if before else ExporterStatus.AFTER_LEASE_HOOK
        self._show(status, f"running the {'beforeLease' if before else 'afterLease'} hook")
        self._tasks.start_soon(self._run_hook, kind, self.hooks)

    async def _run_hook(self, kind: HookType, hooks: HookExecutor) -> None:
        event, message = Event.HOOK_INTERRUPTED, ""
        with anyio.CancelScope() as self._hook:
            try:
                event, message = Event.HOOK_PASSED, warning_text(await hooks.execute(kind, self.context))
            except HookExecutionError as error:
                exits = error.should_shutdown_exporter()
                event, message = Event.HOOK_ENDS_EXPORTER if exits else Event.HOOK_ENDS_LEASE, error.message
            except Exception as error:
                logger.error("the hook could not be run: %s", details_of(error), exc_info=error)
                event, message = Event.HOOK_ENDS_LEASE, f"the hook could not be run: {details_of(error)}"
        self._hook = None
        self._hook_over(kind, event, message)

    def _hook_over(self, kind: HookType, event: Event, message: str) -> None:
        if kind == "after_lease":
            self.context.after_lease_hook_done.set()
        self.feed(event, message)

    async def _release(self) -> None:
        if self.context.current_status is ExporterStatus.BEFORE_LEASE_HOOK_FAILED and self.context.session is not None:
            await self._tell_failure(self.context.session)
            if self.context.lease_ended.is_set():
                return
        else:
            await self.let_clients_see()
        with anyio.move_on_after(EXIT_PATIENCE if self.wants_exit else None):
            await self.host.release(self)
            await self.context.lease_ended.wait()
        if not self.context.lease_ended.is_set():
            self.feed(Event.STOP)

    async def _tell_failure(self, session: Session) -> None:
        """Keep the lease until its client has learnt that it can't be used, then tell the controller too."""
        with anyio.move_on_after(NOTICE_TIME):
            await session.wait_status_seen()
            with anyio.move_on_after(SHOW_TIME):
                # The client gives the lease back itself, unless it is to be kept.
                await self.context.lease_ended.wait()
        if not self.context.lease_ended.is_set():
            self.host.report(self.context.current_status, self.context.status_message)
