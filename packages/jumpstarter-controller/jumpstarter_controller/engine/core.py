"""What all parts of the engine share: the world, the ways to change it, and the time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import anyio

from ..asks import Actor
from ..clock import Clock
from ..model.lease import expiry
from ..model.records import Key, Kind, Lease, Record
from ..scheduler import Scheduler
from ..settings import Settings
from ..store.base import Store
from ..world import World
from .auditing import Auditor
from .chores import Chores
from .following import Followers
from .ledger import Ledger
from .neighbours import Neighbours
from .timers import Timers

logger = logging.getLogger(__name__)

Listener = Callable[[Record | None, Record | None], None]
"""Is told of a change of the world after it: the old and the new record."""

SERVER = Actor(kind="server", key=None)
"""Who decides what nobody asked for."""


class Core:
    """The shared parts; holds no rules."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.world = World()
        self.scheduler = Scheduler(self.world)
        self.followers = Followers()
        self.ledger = Ledger(store, self.world, self._changed)
        self.auditor = Auditor(store, clock)
        self.chores = Chores(clock, self.wake)
        self.timers: Timers[tuple[str, Key]] = Timers()
        """What has to be looked at when: `lease`, `exporter`, or `mark` for a lease."""
        self.listeners: list[Listener] = []
        """Parts of the engine."""
        self.observers: list[Listener] = []
        """Others."""
        self.neighbours: Neighbours | None = None
        """The other servers of the lab; None where there can't be any."""
        self.leading = False
        self.loaded = False
        """Everything there is has been told."""
        self._wake = anyio.Event()

    @property
    def identity(self) -> str:
        """The name of this server; empty where there is no other."""
        return self.neighbours.identity if self.neighbours is not None else ""

    def now(self) -> datetime:
        """Return the time of day."""
        return self.clock.now()

    def wake(self) -> None:
        """Have decisions made."""
        self._wake.set()

    async def awaken(self) -> None:
        """Wait until decisions are to be made."""
        await self._wake.wait()
        self._wake = anyio.Event()

    def set_timer(self, what: str, key: Key, moment: datetime | None) -> None:
        """Have a record looked at, at a moment."""
        self.timers.set((what, key), moment)
        if moment is not None:
            self.wake()

    def audit(self, actor: Actor, action: str, namespace: str = "", **details: object) -> None:
        """Note something in the audit record."""
        key = actor.key
        if not namespace:
            namespace = key.namespace if key is not None else self.settings.namespace
        self.auditor.note(namespace, actor.kind, key.name if key is not None else "", actor.peer, action, details)

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        assert record is not None
        self.scheduler.changed(old, new, self.now())
        for listener in self.listeners:
            listener(old, new)
        for observer in self.observers:
            try:
                observer(old, new)
            except Exception:  # whoever counts must not stop what is counted
                logger.exception("An observer of %s failed", record.key)
        self.followers.tell(record.key)
        if isinstance(record, Lease):
            self._tell_of_exporter(old, new)
        self.wake()

    def _tell_of_exporter(self, old: Record | None, new: Record | None) -> None:
        """What is told of an exporter includes who has it until when."""
        told = [(item.exporter, item.client, expiry(item)) for item in (old, new) if isinstance(item, Lease)]
        if len(told) == 2 and told[0] == told[1]:
            return
        for item in (new, old):
            if isinstance(item, Lease) and item.exporter:
                self.followers.tell(Key(Kind.EXPORTER, item.meta.namespace, item.exporter))
                return
