"""Exporters and leases as the controller tells of them: read from the wire, shown in tables, dumped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
)

from jumpstarter.common.enums import ExporterStatus

if TYPE_CHECKING:
    from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


# -- names ---------------------------------------------------------------------------------------


def parse_identifier(identifier: str, kind: str) -> tuple[str, str]:
    """Return namespace and name of `namespaces/<namespace>/<kind>/<name>`.

    Args:
        identifier: what the controller calls an object.
        kind: plural of what it has to be, such as `leases`.

    Raises:
        ValueError: it is something else.
    """
    parts = identifier.split("/")
    if len(parts) != 4 or parts[0] != "namespaces" or parts[2] != kind or not parts[1] or not parts[3]:
        raise ValueError(f"expected an identifier namespaces/<namespace>/{kind}/<name>, found {identifier!r}")
    return parts[1], parts[3]


def parse_client_identifier(identifier: str) -> tuple[str, str]:
    """Return namespace and name of `namespaces/<namespace>/clients/<name>`; else ValueError."""
    return parse_identifier(identifier, "clients")


def parse_exporter_identifier(identifier: str) -> tuple[str, str]:
    """Return namespace and name of `namespaces/<namespace>/exporters/<name>`; else ValueError."""
    return parse_identifier(identifier, "exporters")


def parse_lease_identifier(identifier: str) -> tuple[str, str]:
    """Return namespace and name of `namespaces/<namespace>/leases/<name>`; else ValueError."""
    return parse_identifier(identifier, "leases")


# -- leases --------------------------------------------------------------------------------------


def _local_time(message: Any, name: str) -> datetime | None:
    """Return a timestamp of `message` in the local time zone, or None when it isn't set."""
    return getattr(message, name).ToDatetime(tzinfo=UTC).astimezone() if message.HasField(name) else None


class Lease(BaseModel):
    """A client's right to an exporter for a time."""

    model_config = ConfigDict(defer_build=True, arbitrary_types_allowed=True, ser_json_timedelta="float")

    namespace: str
    name: str
    selector: str
    exporter_name: str | None = None
    """The exporter that was asked for by name."""
    duration: timedelta | None
    effective_duration: timedelta | None = None
    begin_time: datetime | None = None
    """When it should begin."""
    client: str
    exporter: str
    """The exporter that is held; empty while it is waited for."""
    conditions: list[Any]
    """Messages `jumpstarter.v1.Condition`."""
    effective_begin_time: datetime | None = None
    """When the exporter was acquired."""
    effective_end_time: datetime | None = None
    """When the lease ended."""
    tags: dict[str, str] = Field(default_factory=dict)
    deprecated_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the selector that should not be used any more, and what to say of them."""

    @field_serializer("conditions", when_used="always")
    def _dump_conditions(self, conditions: list[Any]) -> list[Any]:
        from google.protobuf.json_format import MessageToDict
        from google.protobuf.message import Message

        return [MessageToDict(each) if isinstance(each, Message) else each for each in conditions]

    @classmethod
    def from_protobuf(cls, data: client_pb2.Lease) -> Lease:
        """Read a `jumpstarter.client.v1.Lease`.

        Raises:
            ValueError: the controller names something in an unknown way.
        """
        namespace, name = parse_lease_identifier(data.name)
        return cls(
            namespace=namespace,
            name=name,
            selector=data.selector,
            exporter_name=data.exporter_name or None,
            duration=data.duration.ToTimedelta() if data.HasField("duration") else None,
            effective_duration=data.effective_duration.ToTimedelta() if data.HasField("effective_duration") else None,
            begin_time=_local_time(data, "begin_time"),
            client=parse_client_identifier(data.client)[1] if data.client else "",
            exporter=parse_exporter_identifier(data.exporter)[1] if data.exporter else "",
            conditions=list(data.conditions),
            effective_begin_time=_local_time(data, "effective_begin_time"),
            effective_end_time=_local_time(data, "effective_end_time"),
            tags=dict(data.tags),
            deprecated_labels=dict(data.deprecated_labels),
        )

    def is_ready(self) -> bool:
        """Whether the exporter is held now: the last condition says so, and the lease has not ended."""
        return self.effective_end_time is None and self.get_status() == "In-Use"

    def get_status(self) -> str:
        """Return `Ended`, `In-Use`, `Waiting`, `Expired`, `Unknown` or the reason that the controller gives."""
        if self.effective_end_time is not None:
            return "Ended"
        if not self.conditions:
            return "Unknown"
        last = self.conditions[-1]
        if last.type == "Ready":
            return "In-Use" if last.status == "True" else "Waiting"
        if last.type == "Expired":
            return "Expired"
        return last.reason or "Unknown"

    def expires_at(self) -> datetime | None:
        """Return when the lease ended or will end, or None when that isn't known yet."""
        if self.effective_end_time is not None:
            return self.effective_end_time
        begin = self.effective_begin_time or self.begin_time
        return begin + self.duration if begin is not None and self.duration is not None else None

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        return _yaml(self)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of leases."""
        table.add_column("NAME", no_wrap=True)
        for column in ("SELECTOR", "EXPIRES AT", "REMAINING", "CLIENT", "EXPORTER", "TAGS"):
            table.add_column(column)

    def rich_add_rows(self, table: Any) -> None:
        """Add the row of this lease."""
        expiry = self.expires_at()
        table.add_row(
            self.name,
            self.selector,
            expiry.strftime(TIME_FORMAT) if expiry else "",
            _remaining(expiry),
            self.client,
            self.exporter,
            _pairs(self.tags),
        )

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name."""
        names.append(self.name)


def _remaining(expiry: datetime | None) -> str:
    """Write the time until `expiry` like `1d 2h 5m`."""
    if expiry is None:
        return ""
    seconds = int((expiry - datetime.now(UTC)).total_seconds())
    if seconds <= 0:
        return "expired"
    days, rest = divmod(seconds // 60, 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    return " ".join(part for part in parts if part) or "0m"


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _yaml(model: BaseModel) -> str:
    import yaml

    return yaml.safe_dump(model.model_dump(mode="json", by_alias=True), indent=2)


class LeaseList(BaseModel):
    """Leases, and where the next ones are to be had."""

    leases: list[Lease]
    next_page_token: str | None = Field(exclude=True, default=None)

    @classmethod
    def from_protobuf(cls, data: client_pb2.ListLeasesResponse) -> LeaseList:
        """Read a `jumpstarter.client.v1.ListLeasesResponse`."""
        return cls(
            leases=[Lease.from_protobuf(each) for each in data.leases],
            next_page_token=data.next_page_token,
        )

    def filter_by_selector(self, selector: str | None) -> LeaseList:
        """Return the leases whose own selector asks for what `selector` asks for; None for all."""
        from .selectors import selector_contains

        if not selector:
            return self
        found = [each for each in self.leases if selector_contains(each.selector, selector)]
        return LeaseList(leases=found, next_page_token=None)

    def filter_by_client(self, client: str) -> LeaseList:
        """Return the leases of one client."""
        return LeaseList(leases=[each for each in self.leases if each.client == client], next_page_token=None)

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        return _yaml(self)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of leases."""
        Lease.rich_add_columns(table)

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per lease."""
        for each in self.leases:
            each.rich_add_rows(table)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name of each lease."""
        for each in self.leases:
            each.rich_add_names(names)


# -- exporters -----------------------------------------------------------------------------------


@dataclass
class WithOptions:
    """What a table of exporters shows beside names and labels."""

    show_online: bool = False
    show_leases: bool = False
    show_status: bool = False
    show_disabled: bool = False


class Exporter(BaseModel):
    """A device, or a group of devices, that can be leased."""

    namespace: str
    name: str
    labels: dict[str, str]
    online: bool = False
    status: ExporterStatus | None = None
    """What it is doing; None when it doesn't tell."""
    enabled: bool = True
    lease: Lease | None = None
    """The lease that holds it, where that was asked for."""
    deprecated_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that should not be used any more, and what to say of them."""

    @classmethod
    def from_protobuf(cls, data: client_pb2.Exporter) -> Exporter:
        """Read a `jumpstarter.client.v1.Exporter`.

        Raises:
            ValueError: the controller names it in an unknown way.
        """
        namespace, name = parse_exporter_identifier(data.name)
        return cls(
            namespace=namespace,
            name=name,
            labels=dict(data.labels),
            online=data.online,
            status=ExporterStatus.from_proto(data.status) or None,
            enabled=data.enabled if data.HasField("enabled") else True,
            deprecated_labels=dict(data.deprecated_labels),
        )

    @classmethod
    def rich_add_columns(cls, table: Any, options: WithOptions | None = None) -> None:
        """Add the columns of a table of exporters."""
        add_display_columns(table, options)

    def rich_add_rows(self, table: Any, options: WithOptions | None = None) -> None:
        """Add the row of this exporter."""
        add_exporter_row(table, self, options, _lease_cells(self.lease))

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name."""
        names.append(self.name)


def add_display_columns(table: Any, options: WithOptions | None = None) -> None:
    """Add the columns of a table of exporters, as `options` say."""
    options = options or WithOptions()
    table.add_column("NAME")
    if options.show_disabled:
        table.add_column("ENABLED")
    if options.show_online:
        table.add_column("ONLINE")
    if options.show_status:
        table.add_column("STATUS")
    table.add_column("LABELS")
    if options.show_leases:
        for column in ("LEASED BY", "LEASE STATUS", "RELEASE TIME"):
            table.add_column(column)


def add_exporter_row(
    table: Any,
    exporter: Exporter,
    options: WithOptions | None = None,
    lease_info: tuple[str, str, str] | None = None,
) -> None:
    """Add the row of an exporter.

    Args:
        table: a rich table with the columns of `add_display_columns`.
        exporter: what to show.
        options: the same as for the columns.
        lease_info: who holds it, the status of the lease and when it ends; None when it is free.
    """
    options = options or WithOptions()
    cells = [exporter.name]
    if options.show_disabled:
        cells.append("yes" if exporter.enabled else "no")
    if options.show_online:
        cells.append("yes" if exporter.online else "no")
    if options.show_status:
        cells.append(str(exporter.status) if exporter.status is not None else "UNKNOWN")
    cells.append(_pairs(exporter.labels))
    if options.show_leases:
        cells.extend(lease_info or ("", "Available", ""))
    table.add_row(*cells)


def _lease_cells(lease: Lease | None) -> tuple[str, str, str] | None:
    if lease is None:
        return None
    expiry = lease.expires_at()
    return lease.client, lease.get_status(), expiry.strftime(TIME_FORMAT) if expiry else ""


class ExporterList(BaseModel):
    """Exporters, where the next ones are to be had, and what of them is shown."""

    exporters: list[Exporter]
    next_page_token: str | None = Field(exclude=True, default=None)
    include_online: bool = Field(default=False, exclude=True)
    include_leases: bool = Field(default=False, exclude=True)
    include_status: bool = Field(default=False, exclude=True)
    include_disabled: bool = Field(default=False, exclude=True)

    @classmethod
    def from_protobuf(cls, data: client_pb2.ListExportersResponse) -> ExporterList:
        """Read a `jumpstarter.client.v1.ListExportersResponse`."""
        return cls(
            exporters=[Exporter.from_protobuf(each) for each in data.exporters],
            next_page_token=data.next_page_token,
        )

    def _shown(self) -> list[Exporter]:
        return [each for each in self.exporters if each.enabled or self.include_disabled]

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        hidden = {
            name
            for name, shown in (
                ("online", self.include_online),
                ("lease", self.include_leases),
                ("status", self.include_status),
                ("enabled", self.include_disabled),
            )
            if not shown
        }
        pairs = zip(self.exporters, values.get("exporters", ()), strict=False)
        values["exporters"] = [
            {name: value for name, value in dumped.items() if name not in hidden}
            for exporter, dumped in pairs
            if exporter.enabled or self.include_disabled
        ]
        return values

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        return _yaml(self)

    def _options(self) -> WithOptions:
        return WithOptions(
            show_online=self.include_online,
            show_leases=self.include_leases,
            show_status=self.include_status,
            show_disabled=self.include_disabled,
        )

    def rich_add_columns(self, table: Any) -> None:
        """Add the columns of a table of exporters."""
        add_display_columns(table, self._options())

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per exporter."""
        for each in self._shown():
            each.rich_add_rows(table, self._options())

    def rich_add_names(self, names: list[str]) -> None:
        """Append the name of each exporter."""
        for each in self._shown():
            each.rich_add_names(names)
