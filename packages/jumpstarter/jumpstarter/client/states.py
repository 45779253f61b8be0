"""Leases with what a lab knows of them at a moment: who waits, who holds what, until when, in what role.

A controller without `jumpstarter.lab.v1.LabService` tells a part of it; what it doesn't tell is empty.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr

from jumpstarter.common.condition import condition_message, condition_present_and_equal, condition_true

from .records import TIME_FORMAT, Lease, _pairs, _remaining, _yaml
from .wording import ago, clock_time, left, one_line, place

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.lab.v1 import lab_pb2

ROLES = ("", "owner", "driver", "watcher")
"""Names of `jumpstarter.lab.v1.Role` by number."""

TOLERANCE = timedelta(seconds=2)
"""A difference between two clocks that may as well be the time that a message took."""

_ENDED_REASONS = ("Released", "Expired")


def end_reason(lease: Lease) -> str | None:
    """Return why a lease has ended, or None while it has not."""
    for reason in _ENDED_REASONS:
        if condition_present_and_equal(lease.conditions, "Ready", "False", reason):
            return reason
    return "Ended" if lease.effective_end_time is not None else None


def time_of(message: Any, name: str) -> datetime | None:
    """Return a timestamp of `message` in the local time zone, or None when it isn't set."""
    return getattr(message, name).ToDatetime(tzinfo=UTC).astimezone() if message.HasField(name) else None


class Dated(BaseModel):
    """Something that the controller told at a moment of its own clock."""

    _ahead: timedelta = PrivateAttr(default=timedelta(0))
    _now: datetime | None = PrivateAttr(default=None)

    @property
    def now(self) -> datetime | None:
        """The controller's clock when this was told; None where it isn't known."""
        return self._now

    def set_clock(self, now: datetime | None) -> None:
        """Learn from the controller's clock how far it is ahead of this machine's."""
        if now is None:
            return
        self._now, ahead = now, now - datetime.now(UTC)
        self._ahead = ahead if abs(ahead) > TOLERANCE else timedelta(0)

    def here(self, moment: datetime) -> datetime:
        """Return a moment that the controller names, by the clock of this machine, in local time."""
        return (moment - self._ahead).astimezone()


class Holder(BaseModel):
    """Who has an exporter that others wait for."""

    exporter: str
    client: str
    lease: str
    until: datetime | None = None
    """When the lease ends at the latest, unless it is extended."""


class LeaseState(Lease, Dated):
    """A lease, and what is known of it at a moment."""

    place: int = 0
    """1 for the next one, 0 when it doesn't wait or that isn't known."""
    waiting: int = 0
    """How many wait for the same exporters, this one included."""
    holders: list[Holder] = Field(default_factory=list)
    """Of the exporters that it waits for, those first that are free first."""
    reason: str = ""
    """Why it waits, or ended."""
    until: datetime | None = None
    """When it ends, unless it is extended."""
    limit: datetime | None = None
    """Beyond this it can't be extended."""
    idle_until: datetime | None = None
    """When it ends if nobody uses it until then."""
    shares: dict[str, str] = Field(default_factory=dict)
    """Names of other clients, and their roles."""
    role: str = ""
    """`owner`, `driver` or `watcher`, as which the asking client has it; empty for strangers."""
    policy: str = ""
    """The rule that granted it."""
    priority: int = 0
    ended: bool = False

    @classmethod
    def of(cls, lease: Lease, client: str | None = None) -> LeaseState:
        """Return what can be told of a lease without `LabService`, to the client of that name."""
        if isinstance(lease, LeaseState):
            return lease
        ended = end_reason(lease) is not None or condition_true(lease.conditions, "Unsatisfiable")
        reason = next(
            (
                message
                for kind in ("Unsatisfiable", "Invalid", "Ready" if ended else "Pending")
                if (message := condition_message(lease.conditions, kind))
            ),
            "",
        )
        return cls(
            **{name: getattr(lease, name) for name in Lease.model_fields},
            until=None if ended else lease.expires_at(),
            reason=one_line(reason),
            role="owner" if client and lease.client == client else "",
            ended=ended,
        )

    @classmethod
    def from_protobuf(cls, data: lab_pb2.LeaseState) -> LeaseState:  # type: ignore[override]
        """Read a `jumpstarter.lab.v1.LeaseState`.

        Raises:
            ValueError: the controller names something in an unknown way.
        """
        lease = Lease.from_protobuf(data.lease)
        state = cls(
            **{name: getattr(lease, name) for name in Lease.model_fields},
            place=data.place,
            waiting=data.waiting,
            holders=[
                Holder(exporter=each.exporter, client=each.client, lease=each.lease, until=time_of(each, "until"))
                for each in data.holders
            ],
            reason=one_line(data.reason),
            until=time_of(data, "until"),
            limit=time_of(data, "limit"),
            idle_until=time_of(data, "idle_until"),
            shares={client: _role(number) for client, number in sorted(data.shares.items())},
            role=_role(data.role),
            policy=data.policy,
            priority=data.priority,
            ended=data.ended,
        )
        state.set_clock(time_of(data, "now"))
        return state

    @property
    def granted(self) -> bool:
        """Whether it holds its exporter now."""
        return not self.ended and condition_true(self.conditions, "Ready")

    @property
    def scheduled(self) -> bool:
        """Whether its time has yet to come."""
        return (
            not self.ended
            and not self.granted
            and self.begin_time is not None
            and self.here(self.begin_time) > datetime.now(UTC)
        )

    def state_word(self) -> str:
        """Return `Scheduled`, `Waiting`, `In-Use`, or why it has ended."""
        if self.ended:
            for kind in ("Unsatisfiable", "Invalid"):
                if condition_true(self.conditions, kind):
                    return kind
            return end_reason(self) or "Ended"
        if self.granted:
            return "In-Use"
        return "Scheduled" if self.scheduled else "Waiting"

    def expires_at(self) -> datetime | None:
        """Return when the lease ended or will end, or None when that isn't known yet."""
        moment = super().expires_at() if self.ended or self.until is None else self.until
        return self.here(moment) if moment is not None else None

    def queue_text(self) -> str:
        """Return its place among those who wait for the same, `2 of 5`."""
        return f"{self.place} of {max(self.waiting, self.place)}" if self.place else ""

    def waiting_text(self, *, remaining: bool = True) -> str:
        """Return in a few words what it waits for.

        Args:
            remaining: tell times that are left too, which change from second to second.
        """
        if self.scheduled and self.begin_time is not None:
            return self._moment("begins at", self.begin_time, remaining)
        parts = [place(self.place, self.waiting)] if self.place else []
        if self.holders:
            first, *others = self.holders
            text = f"{first.exporter} is used by {first.client}"
            if first.until is not None:
                text = self._moment(f"{text} until", first.until, remaining)
            parts.append(text + (f", {len(others)} more in use" if others else ""))
        elif self.reason:
            parts.append(self.reason)
        return "; ".join(parts) or "no exporter yet"

    def _moment(self, words: str, moment: datetime, remaining: bool) -> str:
        local = self.here(moment)
        seconds = (local - datetime.now(UTC)).total_seconds()
        return f"{words} {clock_time(local)}" + (f" ({left(seconds)} left)" if remaining and seconds > 0 else "")

    @classmethod
    def rich_add_columns(cls, table: Any, wide: bool = False, state: bool = False) -> None:
        """Add the columns of a table of leases, with `state` some more, with `wide` all."""
        super().rich_add_columns(table)
        if state or wide:
            for column in ("STATUS", "QUEUE"):
                table.add_column(column)
        if wide:
            for column in ("HELD BY", "IDLE END", "SHARED WITH", "PRIORITY", "REASON"):
                table.add_column(column)

    def rich_add_rows(self, table: Any, wide: bool = False, state: bool = False) -> None:
        """Add the row of this lease."""
        if not (wide or state):
            super().rich_add_rows(table)
            return
        expiry = self.expires_at()
        waits = not (self.ended or self.granted)
        holder = self.holders[0] if waits and self.holders else None
        held = f"{holder.exporter}: {holder.client}" if holder else ""
        if holder is not None and holder.until is not None:
            held += f" until {clock_time(self.here(holder.until))}"
        more = (
            held,
            clock_time(self.here(self.idle_until)) if self.idle_until and not self.ended else "",
            _pairs(self.shares),
            str(self.priority) if self.priority else "",
            self.reason,
        )
        table.add_row(
            self.name,
            self.selector,
            expiry.strftime(TIME_FORMAT) if expiry else "",
            _remaining(expiry),
            self.client,
            self.exporter,
            _pairs(self.tags),
            self.state_word(),
            self.queue_text() if waits else "",
            *(more if wide else ()),
        )

    def describe(self) -> list[tuple[str, str]]:
        """Return all that is known, as names and texts for people."""
        expiry, own = self.expires_at(), f" (you are its {self.role})" if self.role else ""
        state = self.state_word()
        if self.granted:
            state += f", for {ago(self.here(self.effective_begin_time))}" if self.effective_begin_time else ""
        elif not self.ended:
            state += f": {self.waiting_text()}"
        elif self.reason:
            state += f": {self.reason}"
        rows = [
            ("Name", self.name),
            ("Status", state),
            ("Client", f"{self.client}{own}"),
            ("Exporter", self.exporter or (f"{self.exporter_name} (asked for)" if self.exporter_name else "")),
            ("Selector", self.selector if self.selector != "<none>" else ""),
            ("Duration", left(self.duration.total_seconds()) if self.duration else ""),
            ("Begins at", self._full(self.begin_time) if self.scheduled else ""),
            ("Began at", self._full(self.effective_begin_time)),
            (("Ended at" if self.ended else "Ends at"), self._ending(expiry)),
            ("Limit", f"{self._full(self.limit)}; it can't be extended beyond" if self.limit else ""),
            ("Idle end", f"{self._full(self.idle_until)}, unless it is used" if self.idle_until else ""),
            ("Shared with", ", ".join(f"{client} ({role})" for client, role in sorted(self.shares.items()))),
            ("Tags", _pairs(self.tags)),
            ("Granted by", self.policy),
            ("Priority", str(self.priority) if self.priority else ""),
        ]
        if not (self.granted or self.ended):
            rows += [("Waits for", f"{each.exporter}: {self._holding(each)}") for each in self.holders]
        return [(name, text) for name, text in rows if text]

    def _full(self, moment: datetime | None) -> str:
        return self.here(moment).strftime(TIME_FORMAT) if moment is not None else ""

    def _ending(self, expiry: datetime | None) -> str:
        if expiry is None:
            return ""
        text = expiry.strftime(TIME_FORMAT)
        return text if self.ended else f"{text} ({left((expiry - datetime.now(UTC)).total_seconds())} left)"

    def _holding(self, holder: Holder) -> str:
        text = f"used by {holder.client}"
        return self._moment(f"{text} until", holder.until, True) if holder.until else text


def _role(number: int) -> str:
    return ROLES[number] if 0 <= number < len(ROLES) else f"role {number}"


class LeaseStateList(BaseModel):
    """Leases, and what is known of them."""

    leases: list[LeaseState]

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        return _yaml(self)

    @classmethod
    def rich_add_columns(cls, table: Any, wide: bool = False, state: bool = False) -> None:
        """Add the columns of a table of leases."""
        LeaseState.rich_add_columns(table, wide, state)

    def rich_add_rows(self, table: Any, wide: bool = False, state: bool = False) -> None:
        """Add a row per lease."""
        for each in self.leases:
            each.rich_add_rows(table, wide, state)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name of each lease."""
        names.extend(each.name for each in self.leases)
