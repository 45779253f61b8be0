"""Writes decisions to the store, and keeps the world in memory as the store tells it and in no other way."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

from ..errors import Code, Refused
from ..model.records import Key, Kind, Record
from ..store.base import (
    Changed,
    Conflict,
    Create,
    Current,
    Delete,
    Deleted,
    Event,
    Exists,
    Restarted,
    Store,
    StoreError,
    Unavailable,
    Write,
)
from ..world import World

K = TypeVar("K", bound=Hashable)

logger = logging.getLogger(__name__)

KINDS = tuple(Kind)

_ATTEMPTS = 50
"""So often a change is tried again when others change the same records; one of those who compete always succeeds."""

_COMMIT_SECONDS = 30.0
"""For how long a store may take, before it counts as away."""

_SIGHT_SECONDS = 5.0
"""For how long the store may take to tell its watchers of what it did."""

_REMEMBERED = 8192
"""So many changes are remembered as seen, for those who look for them later."""

_PAUSE_SECONDS = 1.0

Build = Callable[[], Sequence[Write]]
"""Looks at the world and returns what to write; called again after a conflict. Raises `Refused` to give up."""


class Ledger:
    """The way to and from the store.

    Args:
        changed: is called for each change of the world, after it, with the old and the new record.
    """

    def __init__(self, store: Store, world: World, changed: Callable[[Record | None, Record | None], None]) -> None:
        self.world = world
        self._store = store
        self._changed = changed
        self._told: set[Key] | None = None
        self._seen: OrderedDict[tuple[Key, str, bool], None] = OrderedDict()
        self._looking: dict[tuple[Key, str, bool], list[anyio.Event]] = {}
        self._moving: dict[Key, list[anyio.Event]] = {}
        self._watching = False
        self.commit_listeners: list[Callable[[float], None]] = []
        """Are told how many seconds each commit took, also those that failed."""

    # -- from the store ----------------------------------------------------------------------------

    async def keep_watch(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow the store for good; started when everything there is has been told.

        Raises:
            Refused: UNAVAILABLE, when the store could not be read at the start. Later it is tried again.
        """
        started = False
        while True:
            try:
                async with self._store.watch(*KINDS) as events:
                    self._told = set()
                    async for event in events:
                        self._take(event)
                        if isinstance(event, Current):
                            self._watching = True
                            if not started:
                                started = True
                                task_status.started()
            except StoreError as error:
                if not started:
                    raise unavailable(error) from error
                logger.warning("The store can't be followed: %s", error)
            self._watching = False
            await anyio.sleep(_PAUSE_SECONDS)

    def _take(self, event: Event) -> None:
        match event:
            case Changed(record):
                if self._told is not None:
                    self._told.add(record.key)
                self._note((record.key, record.meta.version, False))
                old = self.world.put(record)
                if old != record:
                    self._changed(old, record)
            case Deleted(record):
                self._note((record.key, record.meta.version, True))
                old = self.world.drop(record.key)
                if old is not None:
                    self._changed(old, None)
            case Restarted():
                self._told = set()
            case Current():
                self._settle()

    def _settle(self) -> None:
        """Take out what was not told: it was removed, or ended, unseen."""
        told, self._told = self._told, None
        if told is not None:
            for key in [key for key in self.world if key not in told]:
                old = self.world.drop(key)
                self._moved(key)
                if old is not None:
                    self._changed(old, None)
        for events in (*self._looking.values(), *self._moving.values()):
            for event in events:
                event.set()

    def _note(self, sight: tuple[Key, str, bool]) -> None:
        self._seen[sight] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        for event in self._looking.get(sight, ()):
            event.set()
        self._moved(sight[0])

    def _moved(self, key: Key) -> None:
        for event in self._moving.get(key, ()):
            event.set()

    # -- to the store ------------------------------------------------------------------------------

    async def commit(self, *writes: Write) -> list[Record]:
        """Write, and wait until the world has it.

        Raises:
            Conflict: nothing was written, look again.
            Refused: UNAVAILABLE, the store can't write.
        """
        # Half a commit can't be taken back, and what it did has to be noted by whoever asked for it.
        with anyio.CancelScope(shield=True):
            begun = time.monotonic()
            try:
                with anyio.fail_after(_COMMIT_SECONDS):
                    records = await self._store.commit(*writes)
            except TimeoutError:
                raise unavailable(Unavailable(f"it did not answer within {_COMMIT_SECONDS:.0f} s")) from None
            except Conflict:
                raise
            except StoreError as error:
                raise unavailable(error) from error
            finally:
                for listener in self.commit_listeners:
                    listener(time.monotonic() - begun)
            with anyio.move_on_after(_SIGHT_SECONDS):
                for write, record in zip(writes, records, strict=True):
                    await self._sight((record.key, record.meta.version, isinstance(write, Delete)))
        return records

    async def _sight(self, sight: tuple[Key, str, bool]) -> None:
        while self._watching and sight not in self._seen:
            if await self._hear(self._looking, sight):
                return

    @staticmethod
    async def _hear(places: dict[K, list[anyio.Event]], place: K) -> bool:
        event = anyio.Event()
        places.setdefault(place, []).append(event)
        try:
            await event.wait()
        finally:
            places[place].remove(event)
            if not places[place]:
                del places[place]
        return True

    async def transact(self, build: Build) -> list[Record]:
        """Commit what `build` returns, again and again when others were faster; nothing when it returns nothing.

        Raises:
            Refused: by `build`, or because the store is away.
            Exists: a record to be created is there.
        """
        for _ in range(_ATTEMPTS):
            writes = build()
            if not writes:
                return []
            try:
                return await self.commit(*writes)
            except Exists:
                raise
            except Conflict as conflict:
                await self.moved(conflict, writes)
        raise Refused(
            Code.ABORTED, "CONTENTION", f"{writes[0]!r:.80} was changed by others all the time; try again in a moment"
        )

    async def get(self, key: Key) -> Record | None:
        """Return a record, also a lease that has ended.

        Raises:
            Refused: UNAVAILABLE, the store can't be read.
        """
        try:
            return await self._store.get(key)
        except StoreError as error:
            raise unavailable(error) from error

    async def moved(self, conflict: Conflict, writes: Sequence[Write]) -> None:
        """Wait, for a short time, until the world has what a write conflicted with."""
        for write in writes:
            if isinstance(write, Delete):
                key, version = write.key, write.version
            else:
                key, version = write.record.key, "" if isinstance(write, Create) else write.record.meta.version
            if key != conflict.key:
                continue
            present = self.world.get(key)
            if version and (present is None or present.meta.version != version):
                await anyio.lowlevel.checkpoint()
                return
        with anyio.move_on_after(_PAUSE_SECONDS):
            await self._hear(self._moving, conflict.key)


def unavailable(error: StoreError) -> Refused:
    """Return the refusal of a request because the store is away."""
    return Refused(
        Code.UNAVAILABLE,
        "STORE_UNAVAILABLE",
        f"the lab can't keep records at present: {error}. Leases that run go on; try again when the store works again",
    )
