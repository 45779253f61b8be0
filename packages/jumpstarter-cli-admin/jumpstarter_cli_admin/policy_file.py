"""Files with access policies: the custom resource of Kubernetes, and what labs add to its rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import click
from jumpstarter.config.document import Document, InvalidConfigError, build, parse_document
from jumpstarter_cli_common.durations import DURATION
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from . import records
from .manifests import POLICY_KIND

_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


def _length(value: Any) -> Any:
    """Return the length of time that a text means; other values are left to the validation."""
    if isinstance(value, str):
        try:
            value = DURATION.convert(value, None, None)
        except click.BadParameter as error:
            raise ValueError(error.message) from None
    if isinstance(value, timedelta) and value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


Length = Annotated[timedelta, BeforeValidator(_length)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Expression(_Part):
    """A condition on one label."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = Field(default_factory=list)


class LabelSelector(_Part):
    """Labels; an empty selector matches everything."""

    match_labels: dict[str, str] = Field(default_factory=dict, alias="matchLabels")
    match_expressions: list[Expression] = Field(default_factory=list, alias="matchExpressions")

    def record(self) -> records.Selector:
        return records.Selector(
            labels=self.match_labels,
            requirements=[
                records.Requirement(key=each.key, operator=each.operator, values=each.values)
                for each in self.match_expressions
            ],
        )


class From(_Part):
    """Clients."""

    client_selector: LabelSelector = Field(default_factory=LabelSelector, alias="clientSelector")


class Rule(_Part):
    """Clients that may have the exporters, and on what terms."""

    description: str = ""
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    from_: list[From] = Field(default_factory=list, alias="from")
    maximum_duration: Length | None = Field(default=None, alias="maximumDuration")
    spot_access: bool = Field(default=False, alias="spotAccess")
    maximum_leases: int = Field(default=0, ge=0, lt=2**31, alias="maximumLeases")
    idle_timeout: Length | None = Field(default=None, alias="idleTimeout")
    extend_by_use: Length | None = Field(default=None, alias="extendByUse")
    maximum_use: Length | None = Field(default=None, alias="maximumUse")

    def record(self) -> records.Rule:
        return records.Rule(
            **{name: getattr(self, name) for name in Rule.model_fields if name != "from_"},
            clients=[each.client_selector.record() for each in self.from_],
        )


class Spec(_Part):
    """What a policy says."""

    exporter_selector: LabelSelector = Field(default_factory=LabelSelector, alias="exporterSelector")
    policies: list[Rule] = Field(default_factory=list)


class Metadata(BaseModel):
    """Of this, name, namespace and version count; Kubernetes puts more there."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1)
    namespace: str = ""
    resourceVersion: str = ""


class PolicyManifest(_Part):
    """An access policy as a file has it."""

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"
    kind: Literal["ExporterAccessPolicy"] = "ExporterAccessPolicy"
    metadata: Metadata
    spec: Spec
    status: Any = None

    def record(self, namespace: str) -> records.Policy:
        return records.Policy(
            namespace=self.metadata.namespace or namespace,
            name=self.metadata.name,
            version=self.metadata.resourceVersion,
            exporters=self.spec.exporter_selector.record(),
            rules=[rule.record() for rule in self.spec.policies],
        )


def read_policies(path: str, namespace: str) -> list[records.Policy]:
    """Read a file of policies; of none if it holds an empty list, as that of a lab without any is written.

    Args:
        path: `-` for the standard input.
        namespace: of policies that name none.

    Raises:
        InvalidConfigError: what is wrong, with file, line and key.
        ClickException: the file can't be read, or holds nothing.
    """
    source = "<stdin>" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    documents = list(_documents(text, source))
    if not documents:
        raise InvalidConfigError(f"{source}: there is no policy in it")
    found = [
        build(PolicyManifest, document, data).record(namespace) for document in documents for data in _items(document)
    ]
    names: set[tuple[str, str]] = set()
    for policy in found:
        if (policy.namespace, policy.name) in names:
            raise InvalidConfigError(f"{source}: the policy '{policy.name}' is there twice")
        names.add((policy.namespace, policy.name))
    return found


def _documents(text: str, source: str) -> Iterator[Document]:
    start = 0
    for end in [*(match.start() for match in _SEPARATOR.finditer(text)), len(text)]:
        part = text[start:end].removeprefix("---")
        # So many lines in front that errors tell the lines of the whole file.
        document = parse_document("\n" * text.count("\n", 0, start) + part, source)
        if document.data is not None:
            yield document
        start = end


def _items(document: Document) -> Iterator[Any]:
    """Yield the policies of a document; those of a list have lost their lines."""
    if document.is_mapping and document.data.get("kind") in (f"{POLICY_KIND}List", "List"):
        items = document.data.get("items")
        if not isinstance(items, list):
            raise InvalidConfigError(f"{document.where(('items',))}: items: must be a list of policies")
        yield from items
    else:
        yield None
