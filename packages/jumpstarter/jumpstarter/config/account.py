"""What configs of administrators and routers share: an account at a controller, one file per account."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from .common import CONFIG_API_VERSION, ObjectMeta, PathOnUse, config_path, validate_alias
from .tls import TLSConfigV1Alpha1

__all__ = ["AccountConfig", "folder_of"]


def folder_of(name: str) -> Path:
    """Return what stands for the folder `name` of the configs, found when it is used."""
    return cast(Path, PathOnUse(lambda: config_path() / name))


class AccountConfig(BaseModel):
    """The config of an account that is neither a client nor an exporter."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    FOLDER: ClassVar[Path]
    WORD: ClassVar[str]
    """What the account is called in messages."""
    ADVICE: ClassVar[str]
    """How one comes by such a config."""

    alias: str = Field(default="default", exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: str
    metadata: ObjectMeta
    """Namespace and name of the account."""
    endpoint: str
    """`host:port` of the controller."""
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str = Field(repr=False)
    grpcOptions: dict[str, str | int] = Field(default_factory=dict)

    @classmethod
    def path_of(cls, alias: str) -> Path:
        """Return where the config `alias` is kept."""
        validate_alias(cls.WORD.lower(), alias)
        return Path(cls.FOLDER) / f"{alias}.yaml"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a config file.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: what is wrong in it, with file, line and key.
        """
        from .document import build, read_document

        try:
            document = read_document(Path(path))
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(f"{cls.WORD} config '{path}' does not exist; {cls.ADVICE}") from None
        config = build(cls, document)
        config.alias, config.path = Path(path).stem, Path(path)
        return config

    @classmethod
    def load(cls, alias: str) -> Self:
        """Read the config `alias`; errors as of `from_file`."""
        return cls.from_file(cls.path_of(alias))

    @classmethod
    def aliases(cls) -> list[str]:
        """Return the aliases of all configs."""
        folder = Path(cls.FOLDER)
        return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []

    @classmethod
    def save(cls, config: Self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the config as a whole, readable by its owner alone; by default to the file of its alias."""
        from .document import dump, write_secret

        target = cls.path_of(config.alias) if path is None else Path(path)
        values: dict[str, Any] = config.model_dump(mode="json", exclude_none=True, by_alias=True)
        write_secret(target, dump({name: value for name, value in values.items() if value != {}}))
        config.path = target
        return target
