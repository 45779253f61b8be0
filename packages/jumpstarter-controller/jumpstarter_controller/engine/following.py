"""Tells readers that something changed: once, however often it changed while they were busy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ..model.records import Key, Kind

P = TypeVar("P", bound=Hashable)


class Follower:
    """One reader."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.changed: set[Key] = set(keys)
        self.ended = False
        self._first = True
        self._wake = anyio.Event()

    def tell(self, key: Key) -> None:
        """Note that a record changed."""
        self.changed.add(key)
        self._wake.set()

    def end(self) -> None:
        """Let the iteration end."""
        self.ended = True
        self._wake.set()

    async def next(self) -> frozenset[Key]:
        """Wait for changes, and take them; the first time not even that."""
        await checkpoint_if_cancelled()
        while not (self.changed or self._first) or self.ended:
            if self.ended:
                raise StopAsyncIteration
            if self._wake.is_set():
                self._wake = anyio.Event()
            await self._wake.wait()
        self._first = False
        changed = frozenset(self.changed)
        self.changed.clear()
        return changed


class _Moments:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def __aiter__(self) -> _Moments:
        return self

    async def __anext__(self) -> None:
        await self._follower.next()


class _Sets:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def __aiter__(self) -> _Sets:
        return self

    async def __anext__(self) -> frozenset[Key]:
        return await self._follower.next()


class Followers:
    """All readers, by what they follow."""

    def __init__(self) -> None:
        self._of_key: dict[Key, set[Follower]] = {}
        self._of_kind: dict[tuple[Kind, str], set[Follower]] = {}
        self._ended = False

    def tell(self, key: Key) -> None:
        """Tell who follows a record that it, or what is known of it, changed."""
        for follower in self._of_key.get(key, ()):
            follower.tell(key)
        for namespace in (key.namespace, ""):
            for follower in self._of_kind.get((key.kind, namespace), ()):
                follower.tell(key)

    def followed(self, key: Key) -> bool:
        """Return whether somebody follows a record, or all of its kind."""
        return key in self._of_key or (key.kind, key.namespace) in self._of_kind or (key.kind, "") in self._of_kind

    def end(self) -> None:
        """Let all iterations end."""
        self._ended = True
        for followers in (*self._of_key.values(), *self._of_kind.values()):
            for follower in followers:
                follower.end()

    @asynccontextmanager
    async def follow(self, *keys: Key) -> AsyncIterator[AsyncIterator[None]]:
        """Iterate over the moments at which one of these changed."""
        follower = self._new(())
        for key in keys:
            self._of_key.setdefault(key, set()).add(follower)
        try:
            yield _Moments(follower)
        finally:
            for key in keys:
                _leave(self._of_key, key, follower)

    @asynccontextmanager
    async def follow_all(
        self, kind: Kind, namespace: str, present: Callable[[], Iterable[Key]]
    ) -> AsyncIterator[AsyncIterator[frozenset[Key]]]:
        """Iterate over the sets of records of a kind that changed; of all namespaces when none is given.

        Args:
            present: tells what there is at first.
        """
        follower = self._new(present())
        self._of_kind.setdefault((kind, namespace), set()).add(follower)
        try:
            yield _Sets(follower)
        finally:
            _leave(self._of_kind, (kind, namespace), follower)

    def _new(self, keys: Iterable[Key]) -> Follower:
        follower = Follower(keys)
        if self._ended:
            follower.end()
        return follower


def _leave(places: dict[P, set[Follower]], place: P, follower: Follower) -> None:
    followers = places.get(place)
    if followers is not None:
        followers.discard(follower)
        if not followers:
            del places[place]
