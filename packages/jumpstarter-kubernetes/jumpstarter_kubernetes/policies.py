"""Access policies of a lab in a cluster: their records, and what is done with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from .json import JsonBaseModel
from .list import V1Alpha1List
from .resources import POLICIES
from .serialize import SerializeV1ObjectMeta, metadata
from .util import AbstractAsyncCustomObjectApi

if TYPE_CHECKING:
    from .util.async_custom_object_api import Event


class V1Alpha1LabelSelector(JsonBaseModel):
    """Labels; an empty selector matches everything."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset(
        {"matchLabels", "match_labels", "matchExpressions", "match_expressions"}
    )

    match_labels: dict[str, str] | None = Field(alias="matchLabels", default=None)
    match_expressions: list[dict[str, Any]] | None = Field(alias="matchExpressions", default=None)
    """Further requirements: `key`, `operator`, `values`."""


class V1Alpha1PolicyFrom(JsonBaseModel):
    """Clients that a rule is about."""

    client_selector: V1Alpha1LabelSelector = Field(alias="clientSelector", default_factory=V1Alpha1LabelSelector)


class V1Alpha1Policy(JsonBaseModel):
    """A rule: clients that may have the exporters of a policy, and on what terms."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset(
        {"description", "maximumDuration", "maximum_duration", "spotAccess", "spot_access"}
    )

    priority: int = 0
    """Whose request is served first; higher ones before lower ones."""
    from_: list[V1Alpha1PolicyFrom] = Field(alias="from", default_factory=list)
    """Alternatives; none matches nobody."""
    maximum_duration: str | None = Field(alias="maximumDuration", default=None)
    """Longer leases are refused; as Go writes it."""
    spot_access: bool | None = Field(alias="spotAccess", default=None)
    description: str | None = None


class V1Alpha1ExporterAccessPolicySpec(JsonBaseModel):
    """What a policy says."""

    exporter_selector: V1Alpha1LabelSelector = Field(alias="exporterSelector", default_factory=V1Alpha1LabelSelector)
    policies: list[V1Alpha1Policy] = Field(default_factory=list)


class V1Alpha1ExporterAccessPolicy(JsonBaseModel):
    """Who may have which exporters. What `dump_yaml` gives can be applied again."""

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default="jumpstarter.dev/v1alpha1")
    kind: Literal["ExporterAccessPolicy"] = Field(default="ExporterAccessPolicy")
    metadata: SerializeV1ObjectMeta
    spec: V1Alpha1ExporterAccessPolicySpec

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1ExporterAccessPolicy:
        """Read a custom resource.

        Raises:
            KeyError: it has no name.
            ValidationError: its spec is none.
        """
        spec = V1Alpha1ExporterAccessPolicySpec.model_validate(data.get("spec") or {})
        return V1Alpha1ExporterAccessPolicy(metadata=metadata(data), spec=spec)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of policies."""
        for title in ("NAME", "EXPORTERS", "RULES"):
            table.add_column(title)

    def rich_add_rows(self, table: Any) -> None:
        """Add the row of this policy."""
        selector = self.spec.exporter_selector
        labels = [f"{key}:{value}" for key, value in sorted((selector.match_labels or {}).items())]
        others = [f"{each.get('key')} {each.get('operator')}" for each in selector.match_expressions or ()]
        table.add_row(self.metadata.name, ",".join(labels + others) or "*", str(len(self.spec.policies)))

    def rich_add_names(self, names: list[str]) -> None:
        """Append the qualified name."""
        names.append(f"exporteraccesspolicy.jumpstarter.dev/{self.metadata.name}")


class V1Alpha1ExporterAccessPolicyList(V1Alpha1List[V1Alpha1ExporterAccessPolicy]):
    """Access policies."""

    kind: Literal["ExporterAccessPolicyList"] = Field(default="ExporterAccessPolicyList")  # type: ignore[assignment]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1ExporterAccessPolicyList:
        """Read a list of custom resources."""
        items = [V1Alpha1ExporterAccessPolicy.from_dict(item) for item in data.get("items") or ()]
        return V1Alpha1ExporterAccessPolicyList(items=items)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of policies."""
        V1Alpha1ExporterAccessPolicy.rich_add_columns(table)


class ExporterAccessPoliciesV1Alpha1Api(AbstractAsyncCustomObjectApi):
    """What is done with the access policies of a namespace."""

    async def create_policy(self, name: str, spec: V1Alpha1ExporterAccessPolicySpec) -> V1Alpha1ExporterAccessPolicy:
        """Make a policy."""
        made = await self._create(POLICIES, name, None, spec.model_dump(mode="json", by_alias=True))
        return V1Alpha1ExporterAccessPolicy.from_dict(made)

    async def list_policies(self) -> V1Alpha1ExporterAccessPolicyList:
        """Return all policies."""
        return V1Alpha1ExporterAccessPolicyList.from_dict(await self._list(POLICIES))

    async def get_policy(self, name: str) -> V1Alpha1ExporterAccessPolicy:
        """Return a policy."""
        return V1Alpha1ExporterAccessPolicy.from_dict(await self._get(POLICIES, name))

    async def patch_policy(self, name: str, patch: Mapping[str, Any]) -> V1Alpha1ExporterAccessPolicy:
        """Change parts of a policy by a merge patch."""
        return V1Alpha1ExporterAccessPolicy.from_dict(await self._patch(POLICIES, name, patch))

    async def watch_policies(
        self, timeout: int = 300
    ) -> AsyncGenerator[tuple[Event, V1Alpha1ExporterAccessPolicy], None]:
        """Iterate over what there is and what happens, for at most `timeout` seconds."""
        async for event, item in self._watch(POLICIES, timeout):
            yield event, V1Alpha1ExporterAccessPolicy.from_dict(item)

    async def delete_policy(self, name: str) -> None:
        """Remove a policy."""
        await self._delete(POLICIES, name)
