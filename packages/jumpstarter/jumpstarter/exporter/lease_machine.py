"""The life of a lease at its exporter as a table: in which state what event leads where, and what is to be done.

Nothing here does anything; `lease_runner` carries out the actions and reports what came of them as events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from jumpstarter.common.enums import ExporterStatus


class State(Enum):
    """Where a lease is."""

    OPENING = auto()
    """The session is being set up."""
    OPENING_LAST = auto()
    """The same, but the lease is over already, so nothing will come of it."""
    PREPARING = auto()
    """The hook before the lease runs."""
    PREPARING_LAST = auto()
    """The same, but the lease is over already; the hook may finish."""
    READY = auto()
    """Clients use the drivers."""
    CLEANING = auto()
    """The client is done and the hook after the lease runs; the lease itself is still held."""
    CLEANING_LAST = auto()
    """The hook after the lease runs; the lease is over, or the exporter stops."""
    ENDED = auto()
    """The client is done; the lease is still held, and the client's to give back."""
    RELEASING = auto()
    """The exporter gives the lease back and waits until the controller says that it is over."""
    CLOSING = auto()
    """The session is being closed."""
    CLOSED = auto()
    """The device is free."""


class Event(Enum):
    """What can happen to a lease."""

    OPENED = auto()
    """The session is set up."""
    OPEN_FAILED = auto()
    """The session could not be set up; the drivers are not usable."""
    NO_HOOK = auto()
    """There was no hook to run."""
    HOOK_PASSED = auto()
    """The hook succeeded, or failed in a way that only asks for a warning."""
    HOOK_ENDS_LEASE = auto()
    """The hook failed, and the lease must end."""
    HOOK_ENDS_EXPORTER = auto()
    """The hook failed, and the exporter must end."""
    HOOK_INTERRUPTED = auto()
    """The hook was stopped because the exporter is to stop at once."""
    SESSION_ENDED = auto()
    """The client said that it is done."""
    LEASE_ENDED = auto()
    """The controller says that the lease is over."""
    STOP = auto()
    """The exporter is to stop."""
    CLOSED = auto()
    """The session is closed."""


class Action(Enum):
    """What a step asks for; actions that take time report back by an event."""

    OPEN = auto()
    """Set up a session: OPENED or OPEN_FAILED."""
    LISTEN = auto()
    """Accept connections of clients, which wait for a while, and their calls until they are let in."""
    RUN_BEFORE_HOOK = auto()
    """NO_HOOK or one of the HOOK events."""
    ADMIT = auto()
    """Let the clients in."""
    CUT = auto()
    """Accept no more connections, and end those that there are: their owner has no right to them any more."""
    RUN_AFTER_HOOK = auto()
    """NO_HOOK or one of the HOOK events."""
    RELEASE = auto()
    """Give the lease back; the controller's answer is LEASE_ENDED."""
    AWAIT_RELEASE = auto()
    """Leave it to the client to give the lease back: LEASE_ENDED."""
    EXIT = auto()
    """Have the exporter stop with a failure when this lease is closed."""
    CLOSE = auto()
    """Let the clients see the last status, then close the session and their connections: CLOSED."""


@dataclass(frozen=True)
class Step:
    """What an event leads to."""

    next: State
    actions: tuple[Action, ...] = ()
    status: ExporterStatus | None = None
    """Status to show from now on."""
    session_only: bool = False
    """Show the status to the clients of the session, and not to the controller yet: the device isn't free."""


FIRST = Step(State.OPENING, (Action.OPEN,))
"""How every lease begins."""

_CLOSE = Step(State.CLOSING, (Action.CUT, Action.CLOSE))
_CLOSE_FAILED = Step(State.CLOSING, (Action.EXIT, Action.CUT, Action.CLOSE))
# A failed preparation is shown to the clients that wait to be let in; the session itself refuses their calls. The
# controller is told with the release: from then on it refuses clients, who would not learn why.
_BEFORE_FAILED = (Action.ADMIT, Action.RELEASE)

_TABLE: dict[State, dict[Event, Step]] = {
    State.OPENING: {
        Event.OPENED: Step(State.PREPARING, (Action.LISTEN, Action.RUN_BEFORE_HOOK)),
        Event.OPEN_FAILED: Step(
            State.RELEASING, (Action.EXIT, Action.RELEASE), ExporterStatus.BEFORE_LEASE_HOOK_FAILED
        ),
        Event.LEASE_ENDED: Step(State.OPENING_LAST),
        Event.STOP: Step(State.OPENING_LAST),
    },
    State.OPENING_LAST: {
        Event.OPENED: _CLOSE,
        Event.OPEN_FAILED: _CLOSE_FAILED,
    },
    State.PREPARING: {
        Event.NO_HOOK: Step(State.READY, (Action.ADMIT,), ExporterStatus.LEASE_READY),
        Event.HOOK_PASSED: Step(State.READY, (Action.ADMIT,), ExporterStatus.LEASE_READY),
        Event.HOOK_ENDS_LEASE: Step(
            State.RELEASING, _BEFORE_FAILED, ExporterStatus.BEFORE_LEASE_HOOK_FAILED, session_only=True
        ),
        Event.HOOK_ENDS_EXPORTER: Step(
            State.RELEASING,
            (Action.EXIT, *_BEFORE_FAILED),
            ExporterStatus.BEFORE_LEASE_HOOK_FAILED,
            session_only=True,
        ),
        Event.HOOK_INTERRUPTED: _CLOSE,
        Event.LEASE_ENDED: Step(State.PREPARING_LAST, (Action.CUT,)),
        Event.STOP: Step(State.PREPARING_LAST, (Action.CUT,)),
    },
    State.PREPARING_LAST: {
        # What the one hook did, the other undoes, although nobody came to use it.
        Event.NO_HOOK: _CLOSE,
        Event.HOOK_PASSED: Step(State.CLEANING_LAST, (Action.RUN_AFTER_HOOK,)),
        Event.HOOK_ENDS_LEASE: _CLOSE,
        Event.HOOK_ENDS_EXPORTER: _CLOSE_FAILED,
        Event.HOOK_INTERRUPTED: _CLOSE,
    },
    State.READY: {
        Event.SESSION_ENDED: Step(State.CLEANING, (Action.RUN_AFTER_HOOK,)),
        Event.LEASE_ENDED: Step(State.CLEANING_LAST, (Action.CUT, Action.RUN_AFTER_HOOK)),
        Event.STOP: Step(State.CLEANING_LAST, (Action.CUT, Action.RUN_AFTER_HOOK)),
    },
    State.CLEANING: {
        Event.NO_HOOK: Step(State.ENDED, (Action.AWAIT_RELEASE,), ExporterStatus.AVAILABLE),
        Event.HOOK_PASSED: Step(State.RELEASING, (Action.RELEASE,), ExporterStatus.AVAILABLE, session_only=True),
        Event.HOOK_ENDS_LEASE: Step(State.RELEASING, (Action.RELEASE,), ExporterStatus.AFTER_LEASE_HOOK_FAILED),
        Event.HOOK_ENDS_EXPORTER: Step(
            State.RELEASING, (Action.EXIT, Action.RELEASE), ExporterStatus.AFTER_LEASE_HOOK_FAILED
        ),
        Event.HOOK_INTERRUPTED: _CLOSE,
        Event.LEASE_ENDED: Step(State.CLEANING_LAST, (Action.CUT,)),
        # Unlike above its client has still a right to be connected, and waits to see the end of the hook.
        Event.STOP: Step(State.CLEANING_LAST),
    },
    State.CLEANING_LAST: {
        Event.NO_HOOK: _CLOSE,
        Event.HOOK_PASSED: Step(State.CLOSING, (Action.CLOSE,), ExporterStatus.AVAILABLE, session_only=True),
        Event.HOOK_ENDS_LEASE: Step(State.CLOSING, (Action.CLOSE,), ExporterStatus.AFTER_LEASE_HOOK_FAILED),
        Event.HOOK_ENDS_EXPORTER: Step(
            State.CLOSING, (Action.EXIT, Action.CLOSE), ExporterStatus.AFTER_LEASE_HOOK_FAILED
        ),
        Event.HOOK_INTERRUPTED: _CLOSE,
        Event.LEASE_ENDED: Step(State.CLEANING_LAST, (Action.CUT,)),
    },
    State.ENDED: {
        Event.LEASE_ENDED: _CLOSE,
        Event.STOP: _CLOSE,
    },
    State.RELEASING: {
        Event.LEASE_ENDED: _CLOSE,
        Event.STOP: _CLOSE,
    },
    State.CLOSING: {
        Event.CLOSED: Step(State.CLOSED),
    },
    State.CLOSED: {},
}


def step(state: State, event: Event) -> Step | None:
    """Return what `event` leads to in `state`; None when it changes nothing there."""
    return _TABLE[state].get(event)
