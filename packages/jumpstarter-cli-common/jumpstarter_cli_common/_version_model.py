"""The version as an object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class JumpstarterVersion(BaseModel):
    """Versions of the client and of its Python."""

    model_config = ConfigDict(populate_by_name=True)

    git_version: str = Field(alias="gitVersion")
    python_version: str = Field(alias="pythonVersion")

    def dump_json(self) -> str:
        """Return the object as JSON."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return the object as YAML."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), indent=2)
