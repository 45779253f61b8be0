"""Admin configs: who an administrator is to which lab, one file per lab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from .common import CONFIG_API_VERSION, ObjectMeta, PathOnUse, config_path, validate_alias
from .tls import TLSConfigV1Alpha1

__all__ = ["AdminConfigV1Alpha1"]

CURRENT = "current"
"""Name of the file that holds the alias of the current config."""


class AdminConfigV1Alpha1(BaseModel):
    """The config of an administrator."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    ADMIN_CONFIGS_PATH: ClassVar[Path] = cast(Path, PathOnUse(lambda: config_path() / "admins"))
    """Directory of the admin configs."""

    alias: str = Field(default="default", exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: Literal["AdminConfig"] = Field(default="AdminConfig")
    metadata: ObjectMeta
    """Name of the admin account, and the namespace of commands that name none."""
    endpoint: str
    """`host:port` of the controller."""
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str = Field(repr=False)
    grpcOptions: dict[str, str | int] = Field(default_factory=dict)

    @classmethod
    def path_of(cls, alias: str) -> Path:
        """Return where the config `alias` is kept."""
        validate_alias("admin", alias)
        return Path(cls.ADMIN_CONFIGS_PATH) / f"{alias}.yaml"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> AdminConfigV1Alpha1:
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

            raise MissingFile(
                f"Admin config '{path}' does not exist; 'jmp controller run' makes one for who starts a lab"
            ) from None
        config = build(cls, document)
        config.alias, config.path = Path(path).stem, Path(path)
        return config

    @classmethod
    def load(cls, alias: str) -> AdminConfigV1Alpha1:
        """Read the config `alias`; errors as of `from_file`."""
        return cls.from_file(cls.path_of(alias))

    @classmethod
    def aliases(cls) -> list[str]:
        """Return the aliases of all configs."""
        folder = Path(cls.ADMIN_CONFIGS_PATH)
        return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []

    @classmethod
    def save(cls, config: AdminConfigV1Alpha1, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the config as a whole, readable by its owner alone; by default to the file of its alias."""
        from .document import dump, write_secret

        target = cls.path_of(config.alias) if path is None else Path(path)
        values: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
        write_secret(target, dump({name: value for name, value in values.items() if value or name != "grpcOptions"}))
        config.path = target
        return target

    @classmethod
    def current(cls) -> str | None:
        """Return the alias of the current config, or None."""
        try:
            alias = (Path(cls.ADMIN_CONFIGS_PATH) / CURRENT).read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return alias if alias in cls.aliases() else None

    @classmethod
    def use(cls, alias: str) -> None:
        """Make a config the current one.

        Raises:
            FileNotFoundError: there is no such config.
        """
        from .document import write_secret

        cls.load(alias)
        write_secret(Path(cls.ADMIN_CONFIGS_PATH) / CURRENT, f"{alias}\n")
