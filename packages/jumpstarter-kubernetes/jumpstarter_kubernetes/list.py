"""Lists of records."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from .json import JsonBaseModel

T = TypeVar("T")


class V1Alpha1List(JsonBaseModel, Generic[T]):
    """Records of one kind."""

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default="jumpstarter.dev/v1alpha1")
    items: list[T]
    kind: Literal["List"] = Field(default="List")

    def rich_add_rows(self, table: Any) -> None:
        """Add the rows of each."""
        for item in self.items:
            item.rich_add_rows(table)  # type: ignore[attr-defined]

    def rich_add_names(self, names: list[str]) -> None:
        """Append the qualified name of each."""
        for item in self.items:
            item.rich_add_names(names)  # type: ignore[attr-defined]
