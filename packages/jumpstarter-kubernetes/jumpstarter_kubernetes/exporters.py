"""Exporters of a lab in a cluster: their records, and what is done with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .datetime import time_since
from .exceptions import JumpstarterKubernetesError
from .json import JsonBaseModel
from .list import V1Alpha1List
from .resources import EXPORTERS
from .serialize import SerializeV1ObjectMeta, SerializeV1ObjectReference, metadata, reference
from .util import AbstractAsyncCustomObjectApi

if TYPE_CHECKING:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    from .util.async_custom_object_api import Event

CREATE_EXPORTER_DELAY = 1
"""Seconds between two looks for a credential."""

CREATE_EXPORTER_COUNT = 10
"""How often is looked for a credential before that is given up."""


class V1Alpha1ExporterDevice(JsonBaseModel):
    """A driver of an exporter."""

    labels: dict[str, str]
    uuid: str


class V1Alpha1ExporterSpec(JsonBaseModel):
    """What is wanted of an exporter."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset({"username", "enabled"})

    username: str | None = None
    """Name at a login provider, with its prefix."""
    enabled: bool | None = None
    """Whether it takes leases; None for yes."""


class V1Alpha1ExporterStatus(JsonBaseModel):
    """What the controller says of an exporter."""

    credential: SerializeV1ObjectReference | None = None
    """The Secret with its token."""
    devices: list[V1Alpha1ExporterDevice]
    endpoint: str
    """`host:port` of the controller; empty until it has said so."""
    exporter_status: str | None = Field(alias="exporterStatus", default=None)
    """What the exporter is doing, such as `LeaseReady`."""
    status_message: str | None = Field(alias="statusMessage", default=None)


class V1Alpha1Exporter(JsonBaseModel):
    """An exporter."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset({"spec"})

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default="jumpstarter.dev/v1alpha1")
    kind: Literal["Exporter"] = Field(default="Exporter")
    metadata: SerializeV1ObjectMeta
    spec: V1Alpha1ExporterSpec | None = None
    status: V1Alpha1ExporterStatus

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1Exporter:
        """Read a custom resource; the status of one that has none yet is empty.

        Raises:
            KeyError: it has no name.
        """
        status, spec = data.get("status") or {}, data.get("spec")
        return V1Alpha1Exporter(
            metadata=metadata(data),
            spec=V1Alpha1ExporterSpec(username=spec.get("username"), enabled=spec.get("enabled")) if spec else None,
            status=V1Alpha1ExporterStatus(
                credential=reference(status.get("credential")),
                devices=[
                    V1Alpha1ExporterDevice(labels=device.get("labels") or {}, uuid=device.get("uuid", ""))
                    for device in status.get("devices") or ()
                ],
                endpoint=status.get("endpoint") or "",
                exporterStatus=status.get("exporterStatus"),
                statusMessage=status.get("statusMessage"),
            ),
        )

    @classmethod
    def rich_add_columns(cls, table: Any, devices: bool = False) -> None:
        """Add the columns of a table of exporters, or of their devices."""
        titles = ("ENDPOINT", "AGE", "LABELS", "UUID") if devices else ("ENDPOINT", "DEVICES", "AGE")
        for title in ("NAME", "STATUS", *titles):
            table.add_column(title)

    def rich_add_rows(self, table: Any, devices: bool = False) -> None:
        """Add the row of this exporter, or one for each of its devices."""
        created = self.metadata.creation_timestamp
        age = time_since(str(created)) if created else ""
        shown = (self.metadata.name, self.status.exporter_status or "Unknown", self.status.endpoint)
        if not devices:
            table.add_row(*shown, str(len(self.status.devices)), age)
            return
        for device in self.status.devices:
            labels = ",".join(f"{key}:{value}" for key, value in sorted(device.labels.items()))
            table.add_row(*shown, age, labels, device.uuid)

    def rich_add_names(self, names: list[str]) -> None:
        """Append the qualified name."""
        names.append(f"exporter.jumpstarter.dev/{self.metadata.name}")


class V1Alpha1ExporterList(V1Alpha1List[V1Alpha1Exporter]):
    """Exporters."""

    kind: Literal["ExporterList"] = Field(default="ExporterList")  # type: ignore[assignment]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1ExporterList:
        """Read a list of custom resources."""
        return V1Alpha1ExporterList(items=[V1Alpha1Exporter.from_dict(item) for item in data.get("items") or ()])

    @classmethod
    def rich_add_columns(cls, table: Any, devices: bool = False) -> None:
        """Add the columns of a table of exporters, or of their devices."""
        V1Alpha1Exporter.rich_add_columns(table, devices=devices)

    def rich_add_rows(self, table: Any, devices: bool = False) -> None:
        """Add the rows of each."""
        for item in self.items:
            item.rich_add_rows(table, devices=devices)


class ExportersV1Alpha1Api(AbstractAsyncCustomObjectApi):
    """What is done with the exporters of a namespace."""

    async def create_exporter(
        self, name: str, labels: dict[str, str] | None = None, oidc_username: str | None = None
    ) -> V1Alpha1Exporter:
        """Make an exporter, and wait until the controller has given it a credential.

        Raises:
            ApiException: it can't be made.
            JumpstarterKubernetesError: it was made, but no credential came in time.
        """
        await self._create(EXPORTERS, name, labels, {"username": oidc_username} if oidc_username else {})
        for _ in range(CREATE_EXPORTER_COUNT):
            exporter = await self.get_exporter(name)
            if exporter.status.credential is not None:
                return exporter
            await asyncio.sleep(CREATE_EXPORTER_DELAY)
        raise JumpstarterKubernetesError(
            f"exporter {name!r} was made in namespace {self.namespace!r}, but got no credential within "
            f"{CREATE_EXPORTER_COUNT * CREATE_EXPORTER_DELAY} s. Check that a controller of Jumpstarter runs there"
        )

    async def list_exporters(self) -> V1Alpha1ExporterList:
        """Return all exporters."""
        return V1Alpha1ExporterList.from_dict(await self._list(EXPORTERS))

    async def get_exporter(self, name: str) -> V1Alpha1Exporter:
        """Return an exporter."""
        return V1Alpha1Exporter.from_dict(await self._get(EXPORTERS, name))

    async def patch_exporter(self, name: str, patch: Mapping[str, Any]) -> V1Alpha1Exporter:
        """Change parts of an exporter by a merge patch."""
        return V1Alpha1Exporter.from_dict(await self._patch(EXPORTERS, name, patch))

    async def watch_exporters(self, timeout: int = 300) -> AsyncGenerator[tuple[Event, V1Alpha1Exporter], None]:
        """Iterate over what there is and what happens, for at most `timeout` seconds."""
        async for event, item in self._watch(EXPORTERS, timeout):
            yield event, V1Alpha1Exporter.from_dict(item)

    async def delete_exporter(self, name: str) -> None:
        """Remove an exporter; its credential goes with it."""
        await self._delete(EXPORTERS, name)

    async def get_exporter_config(self, name: str) -> ExporterConfigV1Alpha1:
        """Return the config with which a machine acts as an exporter; it has no drivers yet."""
        from jumpstarter.config.common import ObjectMeta
        from jumpstarter.config.exporter import ExporterConfigV1Alpha1
        from jumpstarter.config.tls import TLSConfigV1Alpha1

        exporter = await self.get_exporter(name)
        token = await self._token("exporter", name, exporter.status.credential)
        return ExporterConfigV1Alpha1(
            alias=name,
            metadata=ObjectMeta(namespace=exporter.metadata.namespace, name=exporter.metadata.name),
            endpoint=exporter.status.endpoint,
            token=token,
            tls=TLSConfigV1Alpha1(ca=await self.get_ca_bundle()),
            export={},
        )
