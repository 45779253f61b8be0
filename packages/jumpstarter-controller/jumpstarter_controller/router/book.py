"""What routers have to be told: keys, and streams and leases that have lost their right."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..identity.keys import STREAM_TOKEN_LIFE

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.lab.v1.lab_pb2 import RouterOrder

TOKEN_LIFE = STREAM_TOKEN_LIFE.total_seconds() + 60
"""Seconds after which no token of a stream can be valid any more."""

MOST_STREAMS = 200_000
MOST_LEASES = 20_000
"""Cut streams and leases that are remembered; of more than these the oldest are forgotten."""

PER_MESSAGE = 10_000
"""Streams or leases in one message; a message has to stay below 4 MiB."""


@dataclass(kw_only=True)
class Order:
    """Something to tell a router; several are told as one."""

    keys: tuple[bytes, ...] = ()
    """Empty for no change."""
    streams: dict[str, None] = field(default_factory=dict)
    leases: dict[tuple[str, str], None] = field(default_factory=dict)
    """Pairs of lease and client, which is empty for everybody."""

    def add(self, other: Order) -> None:
        """Take in a later order."""
        self.keys = other.keys or self.keys
        self.streams.update(other.streams)
        self.leases.update(other.leases)

    def messages(self) -> Iterator[RouterOrder]:
        """Give it as messages; the keys come first."""
        from jumpstarter_protocol.jumpstarter.lab.v1.lab_pb2 import LeaseCut, RouterOrder

        keys, streams, leases = self.keys, list(self.streams), list(self.leases)
        while keys or streams or leases:
            yield RouterOrder(
                keys=keys,
                cut=streams[:PER_MESSAGE],
                cut_leases=[LeaseCut(lease=lease, client=client) for lease, client in leases[:PER_MESSAGE]],
            )
            keys, streams, leases = (), streams[PER_MESSAGE:], leases[PER_MESSAGE:]


class CutBook:
    """Remembers what was cut, for routers that are away.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: OrderedDict[str, float] = OrderedDict()
        self._leases: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams) + len(self._leases)

    def cut(self, streams: Iterable[str] = (), leases: Iterable[tuple[str, str]] = ()) -> Order:
        """Take note of cuts and return them as an order."""
        now = self._clock()
        order = Order(streams=dict.fromkeys(streams), leases=dict.fromkeys(leases))
        for stream in order.streams:
            self._streams[stream] = now
            self._streams.move_to_end(stream)
        for lease in order.leases:
            self._leases[lease] = now
            self._leases.move_to_end(lease)
        while self._streams and (
            next(iter(self._streams.values())) < now - TOKEN_LIFE or len(self._streams) > MOST_STREAMS
        ):
            self._streams.popitem(last=False)
        while len(self._leases) > MOST_LEASES:
            self._leases.popitem(last=False)
        return order

    def since(self, when: float) -> Order:
        """Return what was cut from a moment on."""
        return Order(
            streams=dict.fromkeys(stream for stream, then in self._streams.items() if then >= when),
            leases=dict.fromkeys(lease for lease, then in self._leases.items() if then >= when),
        )
