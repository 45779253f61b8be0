"""Leases of a lab in a cluster: their records, and what is done with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .datetime import time_since
from .json import JsonBaseModel
from .list import V1Alpha1List
from .resources import LEASES
from .serialize import (
    SerializeV1Condition,
    SerializeV1ObjectMeta,
    SerializeV1ObjectReference,
    conditions,
    metadata,
    reference,
)
from .util import AbstractAsyncCustomObjectApi

if TYPE_CHECKING:
    from .util.async_custom_object_api import Event


class V1Alpha1LeaseSelector(JsonBaseModel):
    """Labels of the exporters that will do."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset({"matchExpressions", "match_expressions"})

    match_labels: dict[str, str] = Field(alias="matchLabels")
    match_expressions: list[dict[str, Any]] | None = Field(alias="matchExpressions", default=None)
    """Further requirements: `key`, `operator`, `values`; None for none."""


class V1Alpha1LeaseSpec(JsonBaseModel):
    """What is wanted of a lease."""

    client: SerializeV1ObjectReference
    """The owner."""
    duration: str | None
    """As Go writes it, such as `1h30m0s`."""
    selector: V1Alpha1LeaseSelector


class V1Alpha1LeaseStatus(JsonBaseModel):
    """What the controller says of a lease."""

    begin_time: str | None = Field(alias="beginTime", default=None)
    conditions: list[SerializeV1Condition]
    end_time: str | None = Field(alias="endTime", default=None)
    ended: bool
    exporter: SerializeV1ObjectReference | None = None
    """The exporter that was given."""


class V1Alpha1Lease(JsonBaseModel):
    """A client's right, or wish, to have an exporter for a time."""

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default="jumpstarter.dev/v1alpha1")
    kind: Literal["Lease"] = Field(default="Lease")
    metadata: SerializeV1ObjectMeta
    spec: V1Alpha1LeaseSpec
    status: V1Alpha1LeaseStatus

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1Lease:
        """Read a custom resource; one that no controller has seen yet is waiting.

        Raises:
            KeyError: it has no name, or names no client.
            TypeError: its spec is no mapping.
        """
        spec, status = data["spec"], data.get("status") or {}
        if not isinstance(spec, Mapping):
            raise TypeError(f"the spec of a lease is a mapping, not {type(spec).__name__}")
        client = reference(spec["clientRef"])
        if client is None:
            raise KeyError("clientRef.name")
        selector = spec.get("selector") or {}
        return V1Alpha1Lease(
            metadata=metadata(data, managed_fields=True),
            spec=V1Alpha1LeaseSpec(
                client=client,
                duration=spec.get("duration"),
                selector=V1Alpha1LeaseSelector(
                    matchLabels=selector.get("matchLabels") or {},
                    matchExpressions=selector.get("matchExpressions") or None,
                ),
            ),
            status=V1Alpha1LeaseStatus(
                beginTime=status.get("beginTime"),
                conditions=conditions(status.get("conditions")),
                endTime=status.get("endTime"),
                ended=bool(status.get("ended")),
                exporter=reference(status.get("exporterRef")),
            ),
        )

    def get_reason(self) -> str:
        """Return why it is as it is: the reason of its last condition."""
        if not self.status.conditions:
            return "Unknown"
        last = self.status.conditions[-1]
        holds = last.status == "True"
        if last.reason == "Ready":
            return "Ready" if holds else "Waiting"
        if last.reason == "Expired":
            return "Expired" if holds else "Complete"
        return str(last.reason or "Unknown")

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of leases."""
        for title in (
            "NAME",
            "CLIENT",
            "SELECTOR",
            "EXPORTER",
            "DURATION",
            "STATUS",
            "REASON",
            "BEGIN",
            "END",
            "AGE",
        ):
            table.add_column(title)

    def rich_add_rows(self, table: Any) -> None:
        """Add the row of this lease."""
        status, created = self.status, self.metadata.creation_timestamp
        labels = ",".join(f"{key}:{value}" for key, value in self.spec.selector.match_labels.items())
        table.add_row(
            self.metadata.name,
            self.spec.client.name,
            labels or "*",
            status.exporter.name if status.exporter is not None else "",
            self.spec.duration or "",
            "Ended" if status.ended else "InProgress",
            self.get_reason(),
            status.begin_time or "",
            status.end_time or "",
            time_since(str(created)) if created else "",
        )

    def rich_add_names(self, names: list[str]) -> None:
        """Append the qualified name."""
        names.append(f"lease.jumpstarter.dev/{self.metadata.name}")


class V1Alpha1LeaseList(V1Alpha1List[V1Alpha1Lease]):
    """Leases."""

    kind: Literal["LeaseList"] = Field(default="LeaseList")  # type: ignore[assignment]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1LeaseList:
        """Read a list of custom resources."""
        return V1Alpha1LeaseList(items=[V1Alpha1Lease.from_dict(item) for item in data.get("items") or ()])

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of leases."""
        V1Alpha1Lease.rich_add_columns(table)


class LeasesV1Alpha1Api(AbstractAsyncCustomObjectApi):
    """What is done with the leases of a namespace."""

    async def list_leases(self) -> V1Alpha1LeaseList:
        """Return all leases, those that have ended included."""
        return V1Alpha1LeaseList.from_dict(await self._list(LEASES))

    async def get_lease(self, name: str) -> V1Alpha1Lease:
        """Return a lease."""
        return V1Alpha1Lease.from_dict(await self._get(LEASES, name))

    async def release_lease(self, name: str) -> V1Alpha1Lease:
        """Ask the controller to end a lease, and return it as it is before that."""
        return V1Alpha1Lease.from_dict(await self._patch(LEASES, name, {"spec": {"release": True}}))

    async def watch_leases(self, timeout: int = 300) -> AsyncGenerator[tuple[Event, V1Alpha1Lease], None]:
        """Iterate over what there is and what happens, for at most `timeout` seconds."""
        async for event, item in self._watch(LEASES, timeout):
            yield event, V1Alpha1Lease.from_dict(item)

    async def delete_lease(self, name: str) -> None:
        """Remove a lease with its history; to end one, `release_lease` is the way."""
        await self._delete(LEASES, name)
