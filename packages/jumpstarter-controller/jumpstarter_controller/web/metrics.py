"""Counts what a lab does, for Prometheus; the labels of all series are few and bounded."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..lab import Lab
from ..model.lease import condition
from ..model.records import Exporter, Key, Kind, Lease, Record

if TYPE_CHECKING:
    from ..router.pool import RouterPool
    from ..router.service import Relay
    from ..services.rpc import Guard

logger = logging.getLogger(__name__)

MOST_EXPORTERS = 1000
"""Exporters that have series of their own, the first by name; those of all others are added up."""

OTHERS = "_other"
"""Label of what is added up; no account can be called so."""

EXEMPLAR_CHARACTERS = 128
"""Of names and values of an exemplar, as OpenMetrics has it."""

REMEMBERED = 8192
"""Leases that ended lately, so that none is counted twice."""

WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
GRANT_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
COMMIT_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5, 30)

OUTCOMES = ("released", "expired", "cancelled", "unsatisfiable", "invalid")


@dataclass
class _Open:
    """A lease that has not ended."""

    exporter: str
    since: float
    """When it began, or was asked for; of the monotonic clock."""
    begin: datetime | None


class LabMetrics:
    """Follows a lab. To be made before the lab runs, and `started` when it does."""

    def __init__(self, lab: Lab, version: str) -> None:
        # They would double the number of series.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._lab = lab
        self._live = False
        self._open: dict[Key, _Open] = {}
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._free_since: dict[Key, float] = {}
        self._held: dict[Key, float] = {}
        """Seconds for which exporters were held by leases that are over."""
        self._make(version)
        lab.observe(self._changed)
        lab.observe_commits(self._commits.observe)

    def _make(self, version: str) -> None:
        registry = self.registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("jumpstarter_build", "The version of the lab.", registry=registry).info({"version": version})
        self._acquisitions = Counter(
            "jumpstarter_lease_acquisitions",
            "Leases that got an exporter (success), and that turned out to be unsatisfiable (failure).",
            ["result"],
            registry=registry,
        )
        self._outcomes = Counter(
            "jumpstarter_leases_ended", "Leases that ended, by how they did.", ["outcome"], registry=registry
        )
        self._waits = Histogram(
            "jumpstarter_lease_wait_seconds",
            "Time from the wish for a lease, or the begin that was asked for, until it had its exporter.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self._grants = Histogram(
            "jumpstarter_lease_grant_seconds",
            "Time from the moment at which a lease could have its exporter until it had it, durably.",
            buckets=GRANT_BUCKETS,
            registry=registry,
        )
        self._commits = Histogram(
            "jumpstarter_store_commit_seconds",
            "Time of commits of the store.",
            buckets=COMMIT_BUCKETS,
            registry=registry,
        )
        # So that rates are right from the first event on.
        for result in ("success", "failure"):
            self._acquisitions.labels(result)
        for outcome in OUTCOMES:
            self._outcomes.labels(outcome)

    def started(self, routers: RouterPool, relay: Relay, guard: Guard) -> None:
        """Count from now on; what was told before is what there was."""
        self._live = True
        self.registry.register(_LabState(self, self._lab))
        self.registry.register(_RouterState(routers, relay, guard))

    # -- changes -----------------------------------------------------------------------------------

    def _changed(self, old: Record | None, new: Record | None) -> None:
        record = new or old
        if isinstance(record, Exporter):
            self._exporter(record.key, new if isinstance(new, Exporter) else None)
        elif isinstance(record, Lease):
            self._lease(old if isinstance(old, Lease) else None, new if isinstance(new, Lease) else None)

    def _exporter(self, key: Key, exporter: Exporter | None) -> None:
        if exporter is None:
            self._free_since.pop(key, None)
            self._held.pop(key, None)
        elif _grantable(exporter):
            self._free_since.setdefault(key, self._lab.clock.monotonic())
        elif not exporter.lease:
            self._free_since.pop(key, None)

    def _lease(self, old: Lease | None, new: Lease | None) -> None:
        if new is None:
            assert old is not None
            self._close(old.key)
            return
        key = new.key
        if key in self._ended:
            return
        if new.exporter and not (old and old.exporter):
            self._acquired(old, new)
        if _unsatisfiable(new) and not (old and _unsatisfiable(old)) and (old or self._live):
            self._acquisitions.labels("failure").inc(exemplar=exemplar(new))
        if not new.ended:
            known = self._open.setdefault(key, _Open(new.exporter, self._lab.clock.monotonic(), new.begin_time))
            known.begin = new.begin_time
            return
        self._close(key)
        self._ended[key] = None
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        if old or self._live:
            self._outcomes.labels(outcome(new)).inc()

    def _acquired(self, old: Lease | None, new: Lease) -> None:
        now, asked = self._lab.clock.monotonic(), self._open.get(new.key)
        exporter = Key(Kind.EXPORTER, new.meta.namespace, new.exporter)
        free = self._free_since.pop(exporter, None)
        self._open[new.key] = _Open(new.exporter, now, new.begin_time)
        if not (old or self._live):
            return
        self._acquisitions.labels("success").inc(exemplar=exemplar(new))
        wishes = [moment for moment in (new.meta.created, new.begin_time) if moment is not None]
        if new.begun is None or not wishes:
            return
        wanted = max(wishes)
        self._waits.observe(max(0.0, (new.begun - wanted).total_seconds()))
        if old is None or new.begin_time == wanted:
            self._grants.observe(max(0.0, (self._lab.clock.now() - wanted).total_seconds()))
        elif free is not None and asked is not None and free > asked.since:
            # It was waited for the exporter, and not for a limit of a policy.
            self._grants.observe(now - free)

    def _close(self, key: Key) -> None:
        lease = self._open.pop(key, None)
        if lease is not None and lease.exporter:
            exporter = Key(Kind.EXPORTER, key.namespace, lease.exporter)
            self._held[exporter] = self._held.get(exporter, 0.0) + self._lab.clock.monotonic() - lease.since

    # -- sums --------------------------------------------------------------------------------------

    def held(self) -> dict[Key, float]:
        """Return for how many seconds each exporter has been leased since the start."""
        now, found = self._lab.clock.monotonic(), dict(self._held)
        for key, lease in self._open.items():
            if lease.exporter:
                exporter = Key(Kind.EXPORTER, key.namespace, lease.exporter)
                found[exporter] = found.get(exporter, 0.0) + now - lease.since
        return found

    def leases(self) -> dict[str, int]:
        """Return how many leases there are, by state."""
        now, found = self._lab.clock.now(), {"active": 0, "pending": 0, "scheduled": 0}
        for lease in self._open.values():
            waits = "scheduled" if lease.begin is not None and lease.begin > now else "pending"
            found["active" if lease.exporter else waits] += 1
        return found


def outcome(lease: Lease) -> str:
    """Return how a lease ended."""
    if not lease.exporter:
        for kind in ("Invalid", "Unsatisfiable"):
            found = condition(lease, kind)
            if found is not None and found.status == "True":
                return "expired" if found.reason == "Expired" else kind.lower()
        return "cancelled"
    ready = condition(lease, "Ready")
    return "expired" if ready is not None and ready.reason == "Expired" else "released"


def exemplar(lease: Lease) -> dict[str, str]:
    """Return client and id of a lease, cut to what OpenMetrics lets an exemplar have."""
    room = EXEMPLAR_CHARACTERS - len("client") - len("lease_id")
    identity = lease.meta.name[:room]
    client = lease.client[: max(room - len(identity), room // 2)]
    identity = identity[: room - len(client)]
    if (client, identity) != (lease.client, lease.meta.name):
        logger.debug("the exemplar of lease %s is cut, its names are too long", lease.meta.name)
    return {"client": client, "lease_id": identity}


def _grantable(exporter: Exporter) -> bool:
    return (
        exporter.registered
        and exporter.online
        and exporter.ready
        and exporter.enabled
        and not exporter.draining
        and not exporter.lease
    )


def _unsatisfiable(lease: Lease) -> bool:
    found = condition(lease, "Unsatisfiable")
    return found is not None and found.status == "True"


class _LabState(Collector):
    """What is read from the lab when it is asked for."""

    def __init__(self, metrics: LabMetrics, lab: Lab) -> None:
        self._metrics, self._lab = metrics, lab

    def collect(self) -> Iterator[Metric]:
        leases = GaugeMetricFamily("jumpstarter_leases", "Leases that have not ended, by state.", labels=["state"])
        for state, number in self._metrics.leases().items():
            leases.add_metric([state], number)
        yield leases
        exporters = [found for found in self._lab.accounts(Kind.EXPORTER) if isinstance(found, Exporter)]
        states = GaugeMetricFamily("jumpstarter_exporters", "Exporters, by state.", labels=["state"])
        counts = {"free": 0, "leased": 0, "unavailable": 0, "offline": 0}
        for exporter in exporters:
            counts[_state(exporter)] += 1
        for state, number in counts.items():
            states.add_metric([state], number)
        yield states
        yield GaugeMetricFamily(
            "jumpstarter_exporters_connected",
            "Exporters that are connected, leased or not.",
            value=sum(exporter.online for exporter in exporters),
        )
        yield self._utilisation(exporters)
        yield GaugeMetricFamily(
            "jumpstarter_audit_waiting_entries", "Audit entries to be written.", value=self._lab.audit_waiting
        )
        yield CounterMetricFamily(
            "jumpstarter_audit_dropped_entries", "Audit entries that were lost.", value=self._lab.audit_dropped
        )

    def _utilisation(self, exporters: Iterable[Exporter]) -> Metric:
        family = CounterMetricFamily(
            "jumpstarter_exporter_leased_seconds",
            "Seconds for which an exporter was leased since the start of the server.",
            labels=["namespace", "exporter"],
        )
        held, rest, left_out = self._metrics.held(), 0.0, False
        for number, exporter in enumerate(sorted(exporters, key=lambda found: found.key)):
            seconds = held.get(exporter.key, 0.0)
            if number < MOST_EXPORTERS:
                family.add_metric([exporter.meta.namespace, exporter.meta.name], seconds)
            else:
                rest, left_out = rest + seconds, True
        if left_out:
            family.add_metric([OTHERS, OTHERS], rest)
        return family


def _state(exporter: Exporter) -> str:
    if exporter.lease:
        return "leased"
    if not exporter.online:
        return "offline"
    return "free" if _grantable(exporter) else "unavailable"


class _RouterState(Collector):
    """What the routers of the lab do, and the streams of the controller."""

    def __init__(self, routers: RouterPool, relay: Relay, guard: Guard) -> None:
        self._routers, self._relay, self._guard = routers, relay, guard

    def collect(self) -> Iterator[Metric]:
        labels = ["router", "endpoint"]
        up = GaugeMetricFamily("jumpstarter_router_up", "Whether a router takes part.", labels=labels)
        streams = GaugeMetricFamily("jumpstarter_router_open_streams", "Streams that are open.", labels=labels)
        waiting = GaugeMetricFamily(
            "jumpstarter_router_waiting_callers", "Callers whose other end has not come yet.", labels=labels
        )
        opened = CounterMetricFamily("jumpstarter_router_streams", "Streams that were opened.", labels=labels)
        passed = CounterMetricFamily("jumpstarter_router_bytes", "Bytes that were passed on.", labels=labels)
        for (name, endpoint), member in {(each.name, each.endpoint): each for each in self._routers.members()}.items():
            place = [name, endpoint]
            up.add_metric(place, member.alive)
            streams.add_metric(place, member.streams)
            waiting.add_metric(place, member.waiting)
            opened.add_metric(place, member.streams_total)
            passed.add_metric(place, member.bytes_total)
        yield from (up, streams, waiting, opened, passed)
        counters = self._relay.counters()
        cut = CounterMetricFamily(
            "jumpstarter_router_interrupted_calls",
            "Calls of the router of this process that were ended for a reason of their own.",
            labels=["reason"],
        )
        for reason, number in counters.ended_total.items():
            cut.add_metric([str(reason)], number)
        yield cut
        yield CounterMetricFamily(
            "jumpstarter_router_refused_calls",
            "Calls that the router of this process refused.",
            value=counters.refused_total,
        )
        yield GaugeMetricFamily(
            "jumpstarter_controller_open_streams",
            "Calls that answer in a stream and are open.",
            value=self._guard.streams,
        )
