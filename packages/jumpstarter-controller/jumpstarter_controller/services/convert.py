"""Records of the lab as messages for clients, and what clients ask for as values of the lab."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jumpstarter_protocol import client_pb2, jumpstarter_pb2, kubernetes_pb2, lab_pb2

from ..errors import Code, Refused
from ..model.records import (
    TAG_PREFIX,
    Condition,
    Device,
    Exporter,
    ExporterStatus,
    Key,
    Lease,
    Record,
    Role,
)
from ..model.selector import InvalidSelector, Selector, parse, structured

if TYPE_CHECKING:
    from ..lab import ExporterView, Holder, LeaseView
    from ..settings import Settings

Message = TypeVar("Message")

ROLES_LABEL = "jumpstarter.dev/roles"
"""Label that exporters give themselves, with the value `1`, that keep watchers from driving."""

CACHED = 8192
"""Messages that are remembered."""

NEVER_SEEN = "Never seen"
CONNECTION_LOST = "connection lost"

STATUSES: Mapping[ExporterStatus, Any] = {status: number for number, status in enumerate(ExporterStatus)}
"""Numbers of `jumpstarter.v1.ExporterStatus`, which count in the order of the texts."""

_BY_NUMBER = {number: status for status, number in STATUSES.items()}

ROLES: Mapping[Role, Any] = {Role.DRIVER: lab_pb2.ROLE_DRIVER, Role.WATCHER: lab_pb2.ROLE_WATCHER}
_ROLE_NUMBERS: Mapping[str, Any] = {
    "owner": lab_pb2.ROLE_OWNER,
    "driver": lab_pb2.ROLE_DRIVER,
    "watcher": lab_pb2.ROLE_WATCHER,
}

LONGEST_DURATION = timedelta(days=36500)


# -- plain values --------------------------------------------------------------------------------


def timestamp(moment: datetime) -> Timestamp:
    """Return a time as a message."""
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return message


def duration(length: timedelta) -> Duration:
    """Return a length of time as a message."""
    message = Duration()
    message.FromTimedelta(length)
    return message


def moment_of(message: Any, field: str) -> datetime | None:
    """Return a time of a request, None when it is not set.

    Raises:
        Refused: it is out of range.
    """
    if not message.HasField(field):
        return None
    try:
        moment: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
        return moment
    except (ValueError, OverflowError):
        raise Refused(
            Code.INVALID_ARGUMENT, "INVALID_TIME", f"{field} is no time between the years 1 and 9999"
        ) from None


def length_of(message: Any, field: str) -> timedelta | None:
    """Return a duration of a request, None when it is not set.

    Raises:
        Refused: it is out of range.
    """
    if not message.HasField(field):
        return None
    try:
        length: timedelta = getattr(message, field).ToTimedelta()
    except (ValueError, OverflowError):
        length = LONGEST_DURATION * 2
    if abs(length) > LONGEST_DURATION:
        raise Refused(Code.INVALID_ARGUMENT, "INVALID_DURATION", f"{field} is longer than {LONGEST_DURATION.days} days")
    return length


def selector_of(text: str, what: str, code: Code = Code.INVALID_ARGUMENT) -> Selector:
    """Return the selector that a text of a request describes.

    Raises:
        Refused: it is none.
    """
    try:
        return parse(text)
    except InvalidSelector as error:
        raise Refused(code, "INVALID_SELECTOR", f"invalid {what}: {error}", {"selector": text[:256]}) from None


def selector_of_message(message: kubernetes_pb2.LabelSelector) -> Selector:
    """Return the selector of a message.

    Raises:
        Refused: it is none.
    """
    expressions = [(item.key, item.operator, list(item.values)) for item in message.match_expressions]
    try:
        return structured(dict(message.match_labels), expressions)
    except InvalidSelector as error:
        raise Refused(Code.INVALID_ARGUMENT, "INVALID_SELECTOR", f"invalid label selector: {error}") from None


def selector_message(selector: Selector) -> kubernetes_pb2.LabelSelector:
    """Return a selector as a message."""
    return kubernetes_pb2.LabelSelector(
        match_labels=dict(selector.labels),
        match_expressions=[
            kubernetes_pb2.LabelSelectorRequirement(key=item.key, operator=item.operator, values=item.values)
            for item in selector.requirements
        ],
    )


def status_of(number: int) -> ExporterStatus:
    """Return a reported status; numbers that nobody knows count as UNSPECIFIED."""
    return _BY_NUMBER.get(number, ExporterStatus.UNSPECIFIED)


def devices_of(reports: Iterable[jumpstarter_pb2.DriverInstanceReport]) -> list[Device]:
    """Return what an exporter says of its drivers."""
    return [
        Device(
            uuid=report.uuid,
            parent_uuid=report.parent_uuid if report.HasField("parent_uuid") else None,
            labels=dict(report.labels),
        )
        for report in reports
    ]


def conditions(items: Iterable[Condition]) -> list[kubernetes_pb2.Condition]:
    """Return conditions as messages, in their order."""
    return [
        kubernetes_pb2.Condition(
            type=item.type,
            status=item.status,
            reason=item.reason,
            message=item.message,
            lastTransitionTime=kubernetes_pb2.Time(seconds=int(item.since.timestamp()), nanos=0),
        )
        for item in items
    ]


def role_number(role: str) -> Any:
    """Return the number of `owner`, `driver`, `watcher`; 0 for nothing."""
    return _ROLE_NUMBERS.get(role, lab_pb2.ROLE_UNSPECIFIED)


# -- records -------------------------------------------------------------------------------------


class Messages:
    """Makes messages of records; what depends on the record alone is made once for each state of it."""

    def __init__(self, settings: Settings) -> None:
        self._deprecated = settings.leases.deprecated_labels
        self._hidden = {*settings.leases.hidden_labels, *self._deprecated, ROLES_LABEL}
        self._known: OrderedDict[tuple[Key, str], tuple[Record, Any]] = OrderedDict()

    def _once(self, record: Record, variant: str, make: Callable[[], Any]) -> Any:
        # Records never change, so the same object is the same state.
        key = (record.key, variant)
        found = self._known.get(key)
        if found is not None and found[0] is record:
            return found[1]
        made = make()
        self._known[key] = record, made
        self._known.move_to_end(key)
        while len(self._known) > CACHED:
            self._known.popitem(last=False)
        return made

    def _deprecations(self, keys: Iterable[str]) -> dict[str, str]:
        return {key: self._deprecated[key] for key in keys if key in self._deprecated}

    # -- leases ----------------------------------------------------------------------------------

    def lease(self, lease: Lease, now: datetime) -> client_pb2.Lease:
        """Return a lease as it is at a moment."""
        message = client_pb2.Lease()
        message.CopyFrom(self._once(lease, "lease", lambda: self._lease(lease)))
        if lease.begun is not None:
            held = (lease.ended_at or now) - lease.begun
            message.effective_duration.FromTimedelta(max(held, timedelta(0)))
        return message

    def _lease(self, lease: Lease) -> client_pb2.Lease:
        parent = f"namespaces/{lease.meta.namespace}"
        selector = lease.selector
        message = client_pb2.Lease(
            name=str(lease.key),
            selector=lease.selector_text or str(selector) or "<none>",
            client=f"{parent}/clients/{lease.client}",
            conditions=conditions(lease.conditions),
            tags=dict(lease.tags),
            context=dict(lease.context),
            allow_disabled=lease.allow_disabled,
            deprecated_labels=self._deprecations([*selector.labels, *(item.key for item in selector.requirements)]),
        )
        message.duration.FromTimedelta(_requested_duration(lease))
        for field, moment in (
            ("begin_time", lease.begin_time),
            ("effective_begin_time", lease.begun),
            ("end_time", lease.end_time),
            ("effective_end_time", lease.ended_at if lease.begun is not None else None),
        ):
            if moment is not None:
                getattr(message, field).CopyFrom(timestamp(moment))
        if lease.exporter:
            message.exporter = f"{parent}/exporters/{lease.exporter}"
        if lease.exporter_name:
            message.exporter_name = lease.exporter_name
        return message

    def lease_state(self, view: LeaseView, role: str, now: datetime) -> lab_pb2.LeaseState:
        """Return a lease with all that is known of it, for a client with a role in it."""
        lease = view.lease
        message = lab_pb2.LeaseState(
            lease=self.lease(lease, now),
            place=view.place,
            waiting=view.waiting,
            holders=[_holder(holder) for holder in view.holders],
            reason=view.reason,
            shares={name: ROLES[share] for name, share in lease.shares.items()},
            role=role_number(role),
            policy=lease.policy,
            priority=lease.priority,
            ended=lease.ended,
        )
        message.now.CopyFrom(timestamp(now))
        for field, moment in (("until", view.until), ("limit", lease.limit), ("idle_until", view.idle_until)):
            if moment is not None:
                getattr(message, field).CopyFrom(timestamp(moment))
        return message

    # -- exporters -------------------------------------------------------------------------------

    def exporter(self, view: ExporterView, *, hidden: bool = False) -> client_pb2.Exporter:
        """Return an exporter.

        Args:
            hidden: with labels that the settings hide.
        """
        message = client_pb2.Exporter()
        message.CopyFrom(
            self._once(view.exporter, f"exporter {hidden}", lambda: self._exporter(view.exporter, hidden=hidden))
        )
        if view.exporter.online:
            return message
        # The status that is kept says what the exporter will do when it is back, not what it does now.
        message.status = STATUSES[ExporterStatus.OFFLINE]
        if view.last_seen is None:
            message.status = STATUSES[ExporterStatus.UNSPECIFIED]
            message.status_message = NEVER_SEEN
        elif view.exporter.status is not ExporterStatus.OFFLINE and view.exporter.registered:
            message.status_message = CONNECTION_LOST
        return message

    def _exporter(self, exporter: Exporter, *, hidden: bool) -> client_pb2.Exporter:
        labels = exporter.meta.labels
        return client_pb2.Exporter(
            name=str(exporter.key),
            labels={key: value for key, value in labels.items() if hidden or key not in self._hidden},
            online=exporter.online,
            status=STATUSES[exporter.status or ExporterStatus.UNSPECIFIED],
            status_message=exporter.status_message,
            enabled=exporter.enabled,
            deprecated_labels=self._deprecations(labels),
        )

    def exporter_state(self, view: ExporterView, now: datetime, *, hidden: bool = False) -> lab_pb2.ExporterState:
        """Return an exporter with all that is known of it."""
        message = lab_pb2.ExporterState(
            exporter=self.exporter(view, hidden=hidden),
            waiting=view.waiting,
            draining=view.exporter.draining,
            devices=_top_devices(view.exporter.devices),
        )
        message.now.CopyFrom(timestamp(now))
        if view.holder is not None:
            message.lease, message.client = view.holder.lease, view.holder.client
            if view.holder.until is not None:
                message.until.CopyFrom(timestamp(view.holder.until))
            if view.since is not None:
                message.since.CopyFrom(timestamp(view.since))
        if view.last_seen is not None:
            message.last_seen.CopyFrom(timestamp(view.last_seen))
        return message


def _requested_duration(lease: Lease) -> timedelta:
    """Return the duration of a lease; resources that others wrote may have none."""
    if lease.duration is not None:
        return lease.duration
    begin = lease.begin_time or lease.begun or lease.meta.created
    if lease.end_time is None or begin is None:
        return timedelta(0)
    return max(lease.end_time - begin, timedelta(0))


def _holder(holder: Holder) -> lab_pb2.Holder:
    message = lab_pb2.Holder(exporter=holder.exporter, client=holder.client, lease=holder.lease)
    if holder.until is not None:
        message.until.CopyFrom(timestamp(holder.until))
    return message


def _top_devices(devices: Iterable[Device]) -> list[str]:
    """Return the names of the drivers below the root."""
    known = list(devices)
    roots = {device.uuid for device in known if not device.parent_uuid}
    names = (device.labels.get("jumpstarter.dev/name", "") for device in known if device.parent_uuid in roots)
    return [name for name in names if name]


# -- filters -------------------------------------------------------------------------------------


def lease_filter(filter_text: str, tag_filter: str, *, published: bool) -> Selector:
    """Return the selector on the labels of leases that two filters of a request make.

    Raises:
        Refused: one of them is no selector; of the first one published servers answer UNKNOWN.
    """
    selector = selector_of(filter_text, "filter", Code.UNKNOWN if published else Code.INVALID_ARGUMENT)
    return selector & selector_of(tag_filter, "tag_filter").prefixed(TAG_PREFIX)


def plain_name(identifier: str) -> str:
    """Return the name of `namespaces/{namespace}/{kind}/{name}`, and a plain name as it is."""
    return identifier.rpartition("/")[2] if identifier.startswith("namespaces/") else identifier
