"""Exporters with what a lab knows of them at a moment: who holds them, until when, and who waits for them.

A controller without `jumpstarter.lab.v1.LabService` tells a part of it; what it doesn't tell is empty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from .records import TIME_FORMAT, Exporter, Lease, _pairs, _remaining, _yaml, add_exporter_row
from .states import Dated, time_of
from .wording import ago, clock_time, left

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.lab.v1 import lab_pb2


class ExporterState(Exporter, Dated):
    """An exporter, and what is known of it at a moment."""

    lease: Lease | None = Field(default=None, exclude=True)
    lease_name: str = ""
    """The lease that holds it; empty while it is free."""
    leased_by: str = ""
    leased_since: datetime | None = None
    leased_until: datetime | None = None
    waiting: int | None = None
    """How many pending leases could have it; None when that isn't known."""
    last_seen: datetime | None = None
    draining: bool = False
    """It takes no lease after the present one."""
    devices: list[str] = Field(default_factory=list)
    """Names of the drivers at the top of its tree."""

    @classmethod
    def of(cls, exporter: Exporter) -> ExporterState:
        """Return what can be told of an exporter without `LabService`."""
        lease = exporter.lease
        return cls(
            **{name: getattr(exporter, name) for name in Exporter.model_fields},
            lease_name=lease.name if lease else "",
            leased_by=lease.client if lease else "",
            leased_since=lease.effective_begin_time if lease else None,
            leased_until=lease.expires_at() if lease else None,
        )

    @classmethod
    def from_protobuf(cls, data: lab_pb2.ExporterState) -> ExporterState:  # type: ignore[override]
        """Read a `jumpstarter.lab.v1.ExporterState`.

        Raises:
            ValueError: the controller names it in an unknown way.
        """
        exporter = Exporter.from_protobuf(data.exporter)
        state = cls(
            **{name: getattr(exporter, name) for name in Exporter.model_fields},
            lease_name=data.lease,
            leased_by=data.client,
            leased_since=time_of(data, "since"),
            leased_until=time_of(data, "until"),
            waiting=data.waiting,
            last_seen=time_of(data, "last_seen"),
            draining=data.draining,
            devices=list(data.devices),
        )
        state.set_clock(time_of(data, "now"))
        return state

    def state_word(self) -> str:
        """Return its status, with what keeps it from taking leases."""
        word = str(self.status) if self.status is not None else "UNKNOWN"
        notes = ["disabled"] if not self.enabled else []
        notes += ["draining"] if self.draining else []
        return ", ".join([word, *notes])

    @classmethod
    def rich_add_columns(cls, table: Any, options: Any = None, wide: bool = False) -> None:
        """Add the columns of a table of exporters; `wide` shows more than any options."""
        if not wide:
            super().rich_add_columns(table, options)
            return
        for column in ("NAME", "ONLINE", "STATUS", "LABELS", "LEASED BY", "RELEASE TIME", "REMAINING", "WAITING"):
            table.add_column(column)
        for column in ("LEASE", "LAST SEEN", "DEVICES"):
            table.add_column(column)

    def rich_add_rows(self, table: Any, options: Any = None, wide: bool = False) -> None:
        """Add the row of this exporter."""
        until = self.here(self.leased_until) if self.leased_until is not None else None
        if not wide:
            held = (self.leased_by, "In-Use", until.strftime(TIME_FORMAT) if until else "") if self.lease_name else None
            add_exporter_row(table, self, options, held)
            return
        table.add_row(
            self.name,
            "yes" if self.online else "no",
            self.state_word(),
            _pairs(self.labels),
            self.leased_by,
            until.strftime(TIME_FORMAT) if until else "",
            _remaining(until),
            "" if self.waiting is None else str(self.waiting),
            self.lease_name,
            self._seen(),
            ",".join(self.devices),
        )

    def _seen(self) -> str:
        if self.online:
            return "now"
        return f"{ago(self.here(self.last_seen))} ago" if self.last_seen is not None else ""

    def describe(self) -> list[tuple[str, str]]:
        """Return all that is known, as names and texts for people."""
        held = f"{self.leased_by}, lease {self.lease_name}" if self.lease_name else ""
        if held and self.leased_until is not None:
            until = self.here(self.leased_until)
            held += f", until {clock_time(until)} ({left((until - datetime.now(UTC)).total_seconds())} left)"
        rows = [
            ("Name", self.name),
            ("Online", "yes" if self.online else "no"),
            ("Status", self.state_word()),
            ("Labels", _pairs(self.labels)),
            ("Leased by", held or "nobody"),
            ("Leased since", self.here(self.leased_since).strftime(TIME_FORMAT) if self.leased_since else ""),
            ("Waiting", "" if self.waiting is None else str(self.waiting)),
            ("Last seen", self._seen()),
            ("Devices", ", ".join(self.devices)),
        ]
        return [(name, text) for name, text in rows if text]


class ExporterStateList(BaseModel):
    """Exporters, and what is known of them."""

    exporters: list[ExporterState]

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        return _yaml(self)

    @classmethod
    def rich_add_columns(cls, table: Any, wide: bool = False) -> None:
        """Add the columns of a table of exporters."""
        ExporterState.rich_add_columns(table, None, wide)

    def rich_add_rows(self, table: Any, wide: bool = False) -> None:
        """Add a row per exporter."""
        for each in self.exporters:
            each.rich_add_rows(table, None, wide)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name of each exporter."""
        names.extend(each.name for each in self.exporters)
