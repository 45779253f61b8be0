"""Records as tables, names, JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jumpstarter_cli_common.opt import OutputMode, OutputType
from jumpstarter_cli_common.print import model_print
from jumpstarter_cli_common.time import time_since

from .manifests import POLICY_KIND, manifest, manifests, time_text
from .records import Account, AuditEntry, Kind, Labels, Policy, Router, Selector

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

Row = Sequence[str | None]


@dataclass(frozen=True)
class View:
    """How records of one kind are shown."""

    kind: str
    """As manifests have it."""
    columns: Callable[[bool], Sequence[str]]
    """Titles; the argument asks for all there are."""
    rows: Callable[[Any, bool], Sequence[Row]]
    """Rows of one record."""
    optional: frozenset[str] = frozenset()
    """Titles of columns that are left out where nothing is in them, unless all there is was asked for."""


@dataclass
class Shown:
    """Records that are printed by `model_print`."""

    view: View
    records: Sequence[Any]
    single: bool = False
    """Asked for by name, so no list."""
    namespaces: bool = False
    """Show the namespace of each."""

    compact: bool = False
    """Leave out optional columns without content."""

    def _empty(self, wide: bool) -> frozenset[int]:
        """Return the numbers of the columns that are left out."""
        if wide or not self.compact or not self.view.optional:
            return frozenset()
        rows = [row for record in self.records for row in self.view.rows(record, wide)]
        return frozenset(
            number
            for number, title in enumerate(self.view.columns(wide))
            if title in self.view.optional and not any(row[number] for row in rows)
        )

    def rich_add_columns(self, table: Any, wide: bool = False) -> None:
        """Add the columns."""
        empty = self._empty(wide)
        titles = [title for number, title in enumerate(self.view.columns(wide)) if number not in empty]
        for title in (*(("NAMESPACE",) if self.namespaces else ()), *titles):
            table.add_column(title)

    def rich_add_rows(self, table: Any, wide: bool = False) -> None:
        """Add the rows."""
        empty = self._empty(wide)
        for record in self.records:
            for row in self.view.rows(record, wide):
                cells = [cell for number, cell in enumerate(row) if number not in empty]
                table.add_row(*((record.namespace,) if self.namespaces else ()), *cells)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the names, qualified by the kind."""
        names.extend(f"{self.view.kind.lower()}.jumpstarter.dev/{record.name}" for record in self.records)

    def _object(self) -> Any:
        return manifest(self.records[0]) if self.single else manifests(self.view.kind, self.records)

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return json.dumps(self._object(), indent=4, ensure_ascii=False)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2."""
        import yaml

        return str(yaml.safe_dump(self._object(), indent=2, allow_unicode=True))


def show(
    view: View,
    records: Sequence[Any],
    output: OutputType,
    *,
    single: bool = False,
    namespace: str | None = None,
    namespaces: bool = False,
) -> None:
    """Print records; `namespace` is named when there are none."""
    model_print(
        Shown(view, records, single, namespaces, compact=True),
        output,
        namespace=None if single or namespaces else namespace,
    )


# -- cells ---------------------------------------------------------------------------------------


def pairs(labels: Labels, sign: str = "=") -> str:
    """Return labels in one text, sorted."""
    return ",".join(f"{key}{sign}{value}" for key, value in sorted(labels.items()))


def age(moment: datetime | None) -> str:
    """Return how long ago a moment was: `2h`, `1d3h`."""
    return time_since(time_text(moment) or "") if moment is not None else ""


def until(moment: datetime | None) -> str:
    """Return in what time a moment comes, or that it has passed."""
    if moment is None:
        return ""
    rest = (moment - datetime.now(UTC)).total_seconds()
    return short(timedelta(seconds=int(rest))) if rest > 0 else "expired"


def short(length: timedelta | None) -> str:
    """Return a length of time: `1h30m`, in days from two days on."""
    if length is None:
        return ""
    seconds = int(length.total_seconds())
    if seconds >= 2 * 86400:
        days, rest = divmod(seconds, 86400)
        return f"{days}d{f'{rest // 3600}h' if rest >= 3600 else ''}"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number]
    return "".join(parts) or "0s"


def local(moment: datetime | None) -> str:
    """Return a moment in the time zone of this machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment is not None else ""


def anything(selector: Selector) -> str:
    """Return a selector, `*` for the one that matches everything."""
    return str(selector) or "*"


# -- accounts ------------------------------------------------------------------------------------

_MORE = ("ENABLED", "TOKEN EXPIRES IN", "USERNAME", "LABELS")


def _more(account: Account) -> Row:
    return (
        "yes" if account.enabled else "no",
        until(account.token_expires),
        account.username,
        pairs(account.labels),
    )


def _account_columns(wide: bool) -> Sequence[str]:
    return ("NAME", "ENDPOINT", *(("AGE", *_MORE) if wide else ()))


def _account_rows(account: Account, wide: bool) -> Sequence[Row]:
    return [(account.name, account.endpoint, *((age(account.created), *_more(account)) if wide else ()))]


def exporter_status(account: Account) -> str:
    """Return the status of an exporter, and that it is disabled if so."""
    return (account.status or "Unknown") + ("" if account.enabled else ",Disabled")


def _exporter_columns(wide: bool) -> Sequence[str]:
    more = ("ONLINE", "LAST SEEN", "LEASED BY", "LEASE", *_MORE)
    return ("NAME", "STATUS", "ENDPOINT", "DEVICES", "AGE", *(more if wide else ()))


def _exporter_rows(account: Account, wide: bool) -> Sequence[Row]:
    seen = "now" if account.online else age(account.last_seen) or "never"
    more = ("yes" if account.online else "no", seen, account.leased_by, account.lease, *_more(account))
    return [
        (
            account.name,
            exporter_status(account),
            account.endpoint,
            str(account.device_count),
            age(account.created),
            *(more if wide else ()),
        )
    ]


def _device_rows(account: Account, wide: bool) -> Sequence[Row]:
    shared = (account.name, exporter_status(account), account.endpoint, age(account.created))
    return [
        (*shared, pairs(device.labels, ":"), device.uuid, *((device.parent_uuid,) if wide else ()))
        for device in account.devices
    ]


VIEWS = {kind: View(kind.title, _account_columns, _account_rows) for kind in (Kind.CLIENT, Kind.ADMIN, Kind.ROUTER)} | {
    Kind.EXPORTER: View("Exporter", _exporter_columns, _exporter_rows)
}

DEVICES = View(
    "Exporter",
    lambda wide: ("NAME", "STATUS", "ENDPOINT", "AGE", "LABELS", "UUID", *(("PARENT",) if wide else ())),
    _device_rows,
)


# -- routers -------------------------------------------------------------------------------------


def rate(number: int) -> str:
    """Return bytes per second for people."""
    value = float(number)
    for unit in ("B/s", "KiB/s", "MiB/s"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B/s" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB/s"


def _router_rows(router: Router, wide: bool) -> Sequence[Row]:
    status = "Draining" if router.draining else {True: "Online", False: "Offline", None: "Unknown"}[router.online]
    seen = "now" if router.online else age(router.last_seen) or ("never" if router.online is False else "")
    return [
        (
            router.name,
            status,
            router.endpoint,
            str(router.streams),
            rate(router.bytes_per_second),
            pairs(router.labels),
            *((seen,) if wide else ()),
        )
    ]


ROUTERS = View(
    "Router",
    lambda wide: ("NAME", "STATUS", "ENDPOINT", "STREAMS", "LOAD", "LABELS", *(("LAST SEEN",) if wide else ())),
    _router_rows,
)


# -- policies ------------------------------------------------------------------------------------


def _policy_columns(wide: bool) -> Sequence[str]:
    more = ("IDLE END", "EXTENDS BY", "AT MOST", "SPOT", "DESCRIPTION", "AGE")
    return ("NAME", "EXPORTERS", "CLIENTS", "DURATION", "LEASES", "PRIORITY", *(more if wide else ()))


def _policy_rows(policy: Policy, wide: bool) -> Sequence[Row]:
    exporters = anything(policy.exporters)
    if not policy.rules:
        return [(policy.name, exporters, "nobody")]
    rows: list[Row] = []
    for rule in policy.rules:
        more = (
            short(rule.idle_timeout),
            short(rule.extend_by_use),
            short(rule.maximum_use),
            "yes" if rule.spot_access else "",
            rule.description,
            age(policy.created),
        )
        rows.append(
            (
                policy.name,
                exporters,
                " or ".join(anything(each) for each in rule.clients) or "nobody",
                short(rule.maximum_duration) or "any",
                str(rule.maximum_leases or "any"),
                str(rule.priority),
                *(more if wide else ()),
            )
        )
    return rows


POLICIES = View(POLICY_KIND, _policy_columns, _policy_rows)


# -- leases --------------------------------------------------------------------------------------


def lease_reason(lease: LeaseState) -> str:
    """Return why a lease is as it is: the reason of its last condition."""
    if not lease.conditions:
        return "Unknown"
    last = lease.conditions[-1]
    if last.reason == "Ready":
        return "Ready" if last.status == "True" else "Waiting"
    return last.reason or "Unknown"


def _lease_columns(wide: bool) -> Sequence[str]:
    more = ("QUEUE", "PRIORITY", "POLICY", "IDLE END", "SHARED WITH", "WHY")
    shared = ("NAME", "CLIENT", "SELECTOR", "EXPORTER", "DURATION", "STATUS", "REASON", "BEGIN", "END")
    return (*shared, *(more if wide else ()))


def _clock(moment: datetime | None) -> str:
    from jumpstarter.client.wording import clock_time

    return clock_time(moment.astimezone()) if moment is not None else ""


def _lease_rows(lease: LeaseState, wide: bool) -> Sequence[Row]:
    more = (
        lease.queue_text(),
        str(lease.priority or ""),
        lease.policy,
        _clock(lease.idle_until),
        pairs(lease.shares),
        lease.reason,
    )
    return [
        (
            lease.name,
            lease.client,
            "*" if lease.selector == "<none>" else lease.selector,
            lease.exporter or (lease.exporter_name or ""),
            short(lease.duration),
            "Ended" if lease.ended else "InProgress",
            lease_reason(lease),
            _clock(lease.effective_begin_time or lease.begin_time),
            _clock(lease.effective_end_time or lease.until),
            *(more if wide else ()),
        )
    ]


LEASES = View("Lease", _lease_columns, _lease_rows)


# -- audit ---------------------------------------------------------------------------------------


def _audit_columns(wide: bool) -> Sequence[str]:
    return ("TIME", "ACTOR", "ACTION", "CLIENT", "EXPORTER", "OTHER", "LEASE", *(_AUDIT_MORE if wide else ()))


_AUDIT_MORE = ("PEER", "ID", "DETAILS")


def _other(entry: AuditEntry) -> str:
    """Return what an entry is about when that is neither client, exporter nor lease."""
    kind = entry.details.get("kind", "")
    return f"{kind}:{entry.details.get('name', '')}" if kind in ("admin", "router", "policy") else ""


def _audit_rows(entry: AuditEntry, wide: bool) -> Sequence[Row]:
    # An actor of another kind than client may have the name of one.
    actor = entry.actor if entry.actor_kind == "client" else f"{entry.actor_kind}:{entry.actor}".rstrip(":")
    more = (entry.peer, str(entry.id), pairs(entry.details))
    return [
        (
            local(entry.time),
            actor,
            entry.action,
            entry.client,
            entry.exporter,
            _other(entry),
            entry.lease,
            *(more if wide else ()),
        )
    ]


AUDIT = View("Audit", _audit_columns, _audit_rows, frozenset({"CLIENT", "EXPORTER", "OTHER", "LEASE"}))

MACHINE = (OutputMode.JSON, OutputMode.YAML)
