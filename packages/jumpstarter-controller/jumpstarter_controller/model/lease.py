"""The life of a lease: its times, its conditions, and each step from the wish to the end, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from ..errors import Code, Refused
from .policy import Approval
from .records import ENDED_LABEL, TAG_PREFIX, Condition, Exporter, Lease
from .selector import Selector

LONGEST = timedelta(days=3650)
"""No lease is longer than this, so that times stay computable."""

WATCHED = "jumpstarter.dev/owner-watches"
"""Annotation of pending leases whose owner has a watch, so that a restarted server knows whom to wait for."""


class State(StrEnum):
    """Where a lease is in its life."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    ACTIVE = "active"
    ENDED = "ended"


class Times(NamedTuple):
    """When a lease should begin and end, and how long it is."""

    duration: timedelta
    begin: datetime | None
    end: datetime | None


def reconcile_times(duration: timedelta | None, begin: datetime | None, end: datetime | None) -> Times:
    """Return the three times of a request so that they agree.

    Raises:
        Refused: UNKNOWN, as published servers answer, with texts that they begin the same way.
    """
    for name, moment in (("begin_time", begin), ("end_time", end)):
        if moment is not None and moment.tzinfo is None:
            raise _bad_times(f"{name} {moment.isoformat()} has no time zone")
    try:
        if duration is None:
            if begin is None or end is None:
                raise _bad_times("duration is required, unless both begin_time and end_time are given")
            duration = end - begin
        if duration <= timedelta(0):
            raise _bad_times(f"duration must be positive, not {duration}")
        if duration > LONGEST:
            raise _bad_times(f"duration must be at most {LONGEST.days} days, not {duration}")
        if end is not None:
            if begin is None:
                begin = end - duration
            elif end - begin != duration:
                raise _bad_times(
                    f"duration conflicts with begin_time and end_time: {duration} is given, but it is {end - begin} "
                    f"from {begin.isoformat()} to {end.isoformat()}; leave one of the three out"
                )
        elif begin is not None:
            _ = begin + duration
    except OverflowError:
        raise _bad_times("begin_time or end_time is beyond the times that can be computed with") from None
    return Times(duration, begin, end)


def _bad_times(text: str) -> Refused:
    return Refused(Code.UNKNOWN, "INVALID_TIMES", text)


def state(lease: Lease, now: datetime) -> State:
    """Return where a lease is in its life."""
    if lease.ended:
        return State.ENDED
    if lease.exporter:
        return State.ACTIVE
    if lease.begin_time is not None and lease.begin_time > now:
        return State.SCHEDULED
    return State.PENDING


def expiry(lease: Lease) -> datetime | None:
    """Return when a lease ends at the latest, as far as that is known before it has begun; None when it is not."""
    if lease.end_time is not None:
        return lease.end_time
    duration = lease.duration or timedelta(0)
    if lease.begin_time is not None:
        return lease.begin_time + duration
    if lease.begun is not None:
        return lease.begun + duration
    return None


def effective_duration(lease: Lease, now: datetime) -> timedelta | None:
    """Return for how long a lease has been, or was, held; None when it never began."""
    if lease.begun is None:
        return None
    return max(timedelta(0), (lease.ended_at or now) - lease.begun)


def requested_length(lease: Lease) -> timedelta:
    """Return how long a lease is as its owner wants it, or as it has become; what access policies limit."""
    end = expiry(lease)
    if lease.begun is not None and end is not None:
        return end - lease.begun
    return lease.duration or timedelta(0)


def metadata_labels(selector: Selector, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a lease, by which lists of leases are filtered: equalities of its selector, and its tags."""
    labels = {key: value for key, value in selector.labels.items() if not key.startswith(TAG_PREFIX)}
    labels.update({TAG_PREFIX + key: value for key, value in tags.items()})
    return labels


def condition(lease: Lease, kind: str) -> Condition | None:
    """Return the condition of a type."""
    return next((item for item in lease.conditions if item.type == kind), None)


def with_condition(
    conditions: tuple[Condition, ...], kind: str, status: bool, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    """Return conditions with one set. The order is that of insertion, but `Ready` is the last: peers look at that."""
    since = now
    for item in conditions:
        if item.type == kind and item.status == str(status):
            since = item.since
    new = Condition(type=kind, status=str(status), reason=reason, message=message, since=since)
    if any(item.type == kind for item in conditions):
        result = [new if item.type == kind else item for item in conditions]
    else:
        result = [*conditions, new]
    return tuple(sorted(result, key=lambda item: item.type == "Ready"))


def pend(lease: Lease, reason: str, message: str, now: datetime) -> Lease:
    """Return the lease waiting, for a reason."""
    return replace(lease, conditions=with_condition(lease.conditions, "Pending", True, reason, message, now))


def begin(lease: Lease, exporter: str, approval: Approval, now: datetime) -> Lease:
    """Return the lease with its exporter, on the terms of a rule."""
    conditions = with_condition(lease.conditions, "Ready", True, "Ready", f"exporter {exporter} was acquired", now)
    if any(item.type == "Pending" for item in conditions):
        # Published clients take a Pending that stays True for "still waiting" even after the end of the lease, and
        # fail on a Pending that is False before Ready is True: hence both at once.
        conditions = with_condition(conditions, "Pending", False, "Ready", f"exporter {exporter} was acquired", now)
    return on_terms(replace(lease, exporter=exporter, begun=now, conditions=conditions), approval)


def on_terms(lease: Lease, approval: Approval) -> Lease:
    """Return a begun lease on the terms of a rule."""
    rule = approval.rule
    most = rule.maximum_use or rule.maximum_duration
    return replace(
        lease,
        priority=rule.priority,
        spot=rule.spot_access,
        policy=approval.name,
        limit=lease.begun + most if most is not None and lease.begun is not None else None,
        idle_timeout=rule.idle_timeout,
        extend_by_use=rule.extend_by_use,
    )


def end(lease: Lease, reason: str, message: str, now: datetime) -> Lease:
    """Return the lease ended: `Released` or `Expired`. One that has ended already is returned as it is."""
    if lease.ended:
        return lease
    conditions = lease.conditions
    if reason != "Released" and lease.exporter == "":
        # Published clients that wait recognise the end by Unsatisfiable or by the reason Released only.
        conditions = with_condition(conditions, "Unsatisfiable", True, reason, message, now)
    conditions = with_condition(conditions, "Ready", False, reason, message, now)
    return _ended(replace(lease, conditions=conditions, release=lease.release or reason == "Released"), now)


def refuse(lease: Lease, kind: str, reason: str, message: str, now: datetime) -> Lease:
    """Return the lease ended because it can't be had, with the condition `Unsatisfiable` or `Invalid`."""
    return _ended(
        replace(lease, conditions=with_condition(lease.conditions, kind, True, reason, message, now)),
        now,
    )


def _ended(lease: Lease, now: datetime) -> Lease:
    moment = max(now, lease.begun) if lease.begun is not None else now
    return replace(
        lease,
        ended=True,
        ended_at=moment,
        meta=replace(lease.meta, labels={**lease.meta.labels, ENDED_LABEL: "true"}),
    )


def hold(exporter: Exporter, lease: str, now: datetime) -> Exporter:
    """Return the exporter held by a lease."""
    return replace(exporter, lease=lease, freed=now)


def free(exporter: Exporter, now: datetime) -> Exporter:
    """Return the exporter free."""
    return replace(exporter, lease="", freed=now)


def change_times(
    lease: Lease,
    now: datetime,
    *,
    duration: timedelta | None = None,
    begin_time: datetime | None = None,
    end_time: datetime | None = None,
) -> Lease:
    """Return the lease with other times; None leaves a time as it is.

    Raises:
        Refused: UNKNOWN, as published servers answer; the times don't fit together or come too late.
    """
    if begin_time is not None and begin_time != lease.begin_time and lease.exporter:
        raise _bad_times(
            f"begin_time of lease {lease.meta.name} can't be changed, it has begun"
            + (f" at {lease.begun.astimezone(UTC).isoformat(timespec='seconds')}" if lease.begun else "")
        )
    wanted_begin = begin_time or lease.begin_time
    wanted_end = end_time or lease.end_time
    wanted = duration or lease.duration
    if duration is not None and duration <= timedelta(0):
        raise _bad_times(f"duration must be positive, not {duration}")
    if duration is None and end_time is not None:
        start = wanted_begin or lease.begun
        if start is not None:
            # The end wins; how long the lease is follows from it.
            wanted = end_time - start
            if wanted <= timedelta(0):
                raise _bad_times(f"duration must be positive, but end_time {end_time.isoformat()} is before the begin")
    elif end_time is None and duration is not None and wanted_begin is None:
        wanted_end = None
    elif begin_time is not None and duration is None and end_time is None and wanted_end is not None:
        wanted = wanted_end - begin_time
    if lease.exporter and lease.begin_time is None:
        if duration is not None and wanted_end is not None and lease.begun and wanted_end - lease.begun != duration:
            raise _bad_times(
                f"duration conflicts with begin_time and end_time: {duration} is given, but lease {lease.meta.name} "
                f"began at {lease.begun.isoformat()} and is to end at {wanted_end.isoformat()}; leave one of them out"
            )
        # What began when it could keeps to have no requested begin.
        checked = reconcile_times(wanted, None, None)
        return replace(lease, duration=checked.duration, end_time=wanted_end)
    times = reconcile_times(wanted, wanted_begin, wanted_end)
    return replace(lease, duration=times.duration, begin_time=times.begin, end_time=times.end)


def extend_to(lease: Lease, moment: datetime) -> Lease:
    """Return a begun lease that ends at a later moment, its three times in agreement."""
    start = lease.begin_time or lease.begun
    assert start is not None
    if lease.end_time is not None:
        return replace(lease, duration=moment - start, end_time=moment)
    return replace(lease, duration=moment - start)
