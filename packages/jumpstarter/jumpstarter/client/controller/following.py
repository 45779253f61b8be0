"""Leases and exporters as they change: by the streams of `LabService`, or by looking again and again without it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import RPC_TIMEOUT, Calls, LabService
from .lab import UNIMPLEMENTED, LabCalls, exporters_request, leases_request

if TYPE_CHECKING:
    from ..exporter_states import ExporterState
    from ..states import LeaseState

POLL_INTERVAL = 2.0
"""Seconds between two looks at what a controller without `LabService` has."""

T = TypeVar("T")


class ChangeKind(Enum):
    """What has happened to a list."""

    PUT = "put"
    DELETED = "deleted"
    CURRENT = "current"
    """All that there was has been told."""
    LOST = "lost"
    """The controller can't be reached; it is asked again."""


@dataclass(frozen=True)
class Change(Generic[T]):
    """A change of a list that is followed."""

    kind: ChangeKind
    item: T | None = None
    """What was added, changed or deleted."""
    text: str = ""
    """Why the controller can't be reached."""


class FollowingCalls(LabCalls):
    """The streams of `LabService`, and what stands in for those of lists."""

    async def watch_lease(self, name: str) -> AsyncGenerator[LeaseState, None]:
        """Yield the states of a lease, the present one at once, until it has ended.

        Raises:
            ConnectionError: the controller can't be reached any more; with the status UNIMPLEMENTED when it knows no
                such stream, and the caller has to look again and again.
        """
        from ..states import LeaseState

        async with self._calls() as calls:
            lab = _lab(calls)
            request = lab.pb.WatchLeaseRequest(name=calls.named("leases", name))
            async with aclosing(_messages(lab.stub.WatchLease(request), calls)) as messages:
                async for message in messages:
                    yield LeaseState.from_protobuf(message)

    async def follow_lease(self, name: str) -> AsyncGenerator[Change[LeaseState], None]:
        """Yield the states of a lease, the present one at once, until it has ended, through losses of the controller.

        Raises:
            ConnectionError: the controller refuses.
        """
        from anyio import sleep

        from jumpstarter.common.exceptions import ConnectionError

        from ..retry import passing, pauses

        streaming, waits = True, pauses()
        told: LeaseState | None = None
        while True:
            lost, pause = None, POLL_INTERVAL
            try:
                source = self.watch_lease(name) if streaming else self._lease_once(name)
                async with aclosing(source) as states:
                    async for state in states:
                        waits = pauses()
                        if not _same(told, state):
                            told = state
                            yield Change(ChangeKind.PUT, state)
                        if state.ended:
                            return
                lost = "the controller ended the stream" if streaming else None
            except ConnectionError as error:
                if streaming and error.status == UNIMPLEMENTED:
                    streaming = False
                    continue
                if not passing(error):
                    raise
                lost = error.message
            if lost is not None:
                pause = next(waits)
                yield Change(ChangeKind.LOST, text=lost)
            await sleep(pause)

    async def _lease_once(self, name: str) -> AsyncGenerator[LeaseState, None]:
        yield await self.lease_state(name)

    async def watch_leases(
        self,
        filter: str | None = None,
        only_active: bool = True,
        tag_filter: str | None = None,
        client: str = "",
    ) -> AsyncGenerator[Change[LeaseState], None]:
        """Yield the leases that match, then CURRENT, then what changes; arguments as of `list_lease_states`.

        Without end; what the controller's absence hides is told when it is back.

        Raises:
            ConnectionError: the controller refuses.
        """
        from ..selectors import extract_match_labels_filter, selector_contains
        from ..states import LeaseState

        equality = extract_match_labels_filter(filter) if filter else None

        def request(calls: Calls, lab: LabService) -> Any:
            return lab.stub.WatchLeases(leases_request(calls, lab, equality, only_active, tag_filter, client))

        def read(event: Any) -> LeaseState:
            return LeaseState.from_protobuf(event.state)

        async def look() -> list[LeaseState]:
            return (await self.list_lease_states(filter, only_active, tag_filter, client)).leases

        told: set[str] = set()
        async with aclosing(self._follow(request, read, look)) as changes:
            async for change in changes:
                if filter and change.item is not None:
                    if change.kind is ChangeKind.PUT and selector_contains(change.item.selector, filter):
                        told.add(change.item.name)
                    if change.item.name not in told:
                        continue
                yield change

    async def watch_exporters(
        self, filter: str | None = None, include_disabled: bool = False, show_hidden_labels: bool = False
    ) -> AsyncGenerator[Change[ExporterState], None]:
        """Yield the exporters that match, then CURRENT, then what changes; see `watch_leases`."""
        from ..exporter_states import ExporterState

        def request(calls: Calls, lab: LabService) -> Any:
            return lab.stub.WatchExporters(exporters_request(calls, lab, filter, show_hidden_labels))

        def read(event: Any) -> ExporterState:
            return ExporterState.from_protobuf(event.state)

        async def look() -> list[ExporterState]:
            return (await self.list_exporter_states(filter, True, show_hidden_labels)).exporters

        told: set[str] = set()
        async with aclosing(self._follow(request, read, look)) as changes:
            async for change in changes:
                if change.kind is ChangeKind.PUT and change.item is not None:
                    if change.item.enabled or include_disabled:
                        told.add(change.item.name)
                    elif change.item.name in told:
                        # To who doesn't want to see disabled ones it has gone.
                        told.discard(change.item.name)
                        change = Change(ChangeKind.DELETED, change.item)
                    else:
                        continue
                yield change

    async def _follow(
        self,
        request: Callable[[Calls, LabService], Any],
        read: Callable[[Any], Any],
        look: Callable[[], Awaitable[list[Any]]],
    ) -> AsyncGenerator[Change[Any], None]:
        """Yield the changes of a list, by a stream or else by looking, through losses of the controller."""
        from anyio import sleep

        from jumpstarter.common.exceptions import ConnectionError

        from ..retry import passing, pauses

        known: dict[str, Any] = {}
        streaming, waits, announce = True, pauses(), True
        while True:
            pause, lost = POLL_INTERVAL, None
            try:
                source = self._streamed(request, read) if streaming else _looked(look)
                async with aclosing(source) as changes:
                    async for change in _reconciled(changes, known, announce):
                        waits, announce = pauses(), False
                        yield change
                if streaming:
                    lost = "the controller ended the stream"
            except ConnectionError as error:
                if streaming and error.status == UNIMPLEMENTED:
                    streaming = False
                    continue
                if not passing(error):
                    raise
                lost = error.message
            if lost is not None:
                pause, announce = next(waits), True
                yield Change(ChangeKind.LOST, text=lost)
            await sleep(pause)

    async def _streamed(
        self, request: Callable[[Calls, LabService], Any], read: Callable[[Any], Any]
    ) -> AsyncGenerator[Change[Any], None]:
        async with self._calls() as calls:
            lab = _lab(calls)
            kinds = {
                lab.pb.EVENT_TYPE_PUT: ChangeKind.PUT,
                lab.pb.EVENT_TYPE_DELETED: ChangeKind.DELETED,
                lab.pb.EVENT_TYPE_CURRENT: ChangeKind.CURRENT,
            }
            async with aclosing(_messages(request(calls, lab), calls)) as events:
                async for event in events:
                    kind = kinds.get(event.type)
                    if kind is ChangeKind.CURRENT:
                        yield Change(kind)
                    elif kind is not None:
                        yield Change(kind, read(event))


async def _looked(look: Callable[[], Awaitable[list[Any]]]) -> AsyncGenerator[Change[Any], None]:
    """Yield what there is now, as a stream would."""
    for item in await look():
        yield Change(ChangeKind.PUT, item)
    yield Change(ChangeKind.CURRENT)


async def _reconciled(
    changes: AsyncGenerator[Change[Any], None], known: dict[str, Any], announce: bool
) -> AsyncGenerator[Change[Any], None]:
    """Yield what is news to one who knows `known`, of a stream that starts with all there is.

    That all there is has been told is passed on when it is to be announced.
    """
    seen: set[str] | None = set()
    async for change in changes:
        name = change.item.name if change.item is not None else ""
        if change.kind is ChangeKind.CURRENT:
            if seen is not None:
                for gone in [known.pop(each) for each in sorted(set(known) - seen)]:
                    yield Change(ChangeKind.DELETED, gone)
            seen = None
            if announce:
                yield change
        elif change.kind is ChangeKind.DELETED:
            if (last := known.pop(name, None)) is not None:
                # Of what has gone for good only the name is told; a lease that has ended tells why.
                yield change if getattr(change.item, "ended", False) else Change(ChangeKind.DELETED, last)
        else:
            if seen is not None:
                seen.add(name)
            if not _same(known.get(name), change.item):
                known[name] = change.item
                yield change


def _same(one: Any, other: Any) -> bool:
    """Tell whether two states differ in nothing but what changes with every second."""
    passing = {"effective_duration", "last_seen"}
    return one is not None and one.model_dump(exclude=passing) == other.model_dump(exclude=passing)


def _lab(calls: Calls) -> LabService:
    lab = calls.lab
    if lab is None:
        raise _unimplemented()
    return lab


def _unimplemented() -> Exception:
    from jumpstarter.common.exceptions import ConnectionError

    error = ConnectionError("the controller doesn't tell of changes; it may be older than this client")
    error.status = UNIMPLEMENTED
    return error


async def _messages(stream: Any, calls: Calls) -> AsyncGenerator[Any, None]:
    """Yield the messages of a stream, whose first one comes at once or not at all.

    Raises:
        ConnectionError: the controller doesn't know the rpc, or is silent.
        grpc.aio.AioRpcError: the stream has broken.
    """
    import grpc
    from anyio import fail_after

    from jumpstarter.common.cancellation import answer
    from jumpstarter.common.exceptions import ConnectionError

    try:
        try:
            with fail_after(RPC_TIMEOUT):
                message = await answer(stream.read())
        except TimeoutError:
            error = ConnectionError("the controller didn't answer in time")
            error.status = "DEADLINE_EXCEEDED"
            raise error from None
        while message is not grpc.aio.EOF:
            yield message
            message = await answer(stream.read())
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            calls.note_missing_lab()
        raise
    finally:
        stream.cancel()
