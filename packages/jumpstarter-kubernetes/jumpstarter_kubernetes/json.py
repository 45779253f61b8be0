"""The base of all records: dumped as Kubernetes spells its fields."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class JsonBaseModel(BaseModel):
    """A record that is known by the names of its fields in Python and in Kubernetes."""

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    omitted_when_none: ClassVar[frozenset[str]] = frozenset()
    """Names, as they are dumped, of fields that are left out when they hold nothing."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value is not None or key not in self.omitted_when_none}

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        import yaml

        return str(yaml.safe_dump(self.model_dump(mode="json", by_alias=True), indent=2))
