"""Client configs: who a user is to which controller. What the controller does for them is in `controller`."""

from __future__ import annotations

import builtins
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from .common import CONFIG_API_VERSION, ObjectMeta, PathOnUse, config_path, validate_alias
from .controller import ControllerClient
from .environment import CLIENT, CONNECTION, DRIVERS, UNSAFE, Setting, Shadow, overlay, read, split_allow, uncover
from .shell import ShellConfigV1Alpha1
from .tls import TLSConfigV1Alpha1

__all__ = [
    "ClientConfigListV1Alpha1",
    "ClientConfigV1Alpha1",
    "ClientConfigV1Alpha1Drivers",
    "ClientConfigV1Alpha1Lease",
    "ObjectMeta",
]


def _fill(data: Any, settings: tuple[Setting, ...], prefix: tuple[str, ...] = ()) -> Any:
    """Add what the environment says of members that `data` leaves out."""
    if not isinstance(data, dict):
        return data
    found = {path[-1]: value for path, value in read(settings).items() if path[:-1] == prefix}
    return {key: value for key, value in found.items() if key not in data} | data


class ClientConfigV1Alpha1Drivers(BaseModel):
    """Which client classes of drivers may be imported; what is not given is taken from the environment."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    allow: list[str] = Field(default_factory=list)
    """Globs over the dotted path of the class."""
    unsafe: bool = Field(default=False)
    """Import any class that an exporter names."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, data: Any) -> Any:
        return _fill(data, DRIVERS, ("drivers",))

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_allow(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _read_unsafe_member(self) -> Self:
        if UNSAFE in self.allow and not self.unsafe:
            self.unsafe = True
        return self


class ClientConfigV1Alpha1Lease(BaseModel):
    """How long a client waits around leases."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    acquisition_timeout: int = Field(default=7200, ge=5)
    """Seconds to wait for an exporter to become free."""
    dial_timeout: float = Field(default=30.0, gt=0)
    """Seconds for which connecting to the exporter is tried."""
    retry_timeout: float = Field(default=300.0, ge=0)
    """Seconds for which a new lease is tried when the exporter can't be reached; 0 turns that off."""


class ClientConfigV1Alpha1(ControllerClient, BaseModel):
    """The config of a client, one file per client; what is not given is taken from the environment."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    CLIENT_CONFIGS_PATH: ClassVar[Path] = cast(Path, PathOnUse(lambda: config_path() / "clients"))
    """Directory of the client configs."""

    alias: str = Field(default="default", exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: Literal["ClientConfig"] = Field(default="ClientConfig")
    metadata: ObjectMeta

    endpoint: str | None = Field(default=None)
    """`host:port` of the controller."""
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str | None = Field(default=None, repr=False)
    refresh_token: str | None = Field(default=None, repr=False)
    grpcOptions: dict[str, str | int] | None = Field(default_factory=dict)

    drivers: ClientConfigV1Alpha1Drivers = Field(default_factory=ClientConfigV1Alpha1Drivers)
    shell: ShellConfigV1Alpha1 = Field(default_factory=ShellConfigV1Alpha1)
    leases: ClientConfigV1Alpha1Lease = Field(default_factory=ClientConfigV1Alpha1Lease)

    # What the environment covered when the file was read; saving restores it.
    _shadows: builtins.list[Shadow] = PrivateAttr(default_factory=list)

    def __init__(self, **data: Any) -> None:
        # Spelled out so that type checkers accept a call that leaves members to the environment.
        super().__init__(**data)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {"metadata": {}} | _fill(data, (*CONNECTION, *_WHOLE_MEMBERS))

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def _get_path(cls, alias: str) -> Path:
        """Where the config `alias` is."""
        validate_alias("client", alias)
        return Path(cls.CLIENT_CONFIGS_PATH) / f"{alias}.yaml"

    @classmethod
    def ensure_exists(cls) -> None:
        """Create the directory of the client configs."""
        Path(cls.CLIENT_CONFIGS_PATH).mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ClientConfigV1Alpha1:
        """Read a config file; the environment beats what it says.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: what is wrong in it, with file, line and key. Also a ValueError.
        """
        return cls._read(Path(path), CLIENT)

    @classmethod
    def _read(cls, path: Path, settings: tuple[Setting, ...]) -> ClientConfigV1Alpha1:
        from .document import build, read_document

        try:
            document = read_document(path)
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(
                f"Client config '{path}' does not exist; 'jmp config client list' shows those that do, "
                "'jmp login' makes one"
            ) from None
        data, shadows = document.data, builtins.list[Shadow]()
        if document.is_mapping:
            data, shadows = overlay(data, settings)
        config = build(cls, document, data)
        config.alias = path.stem
        config.path = path
        # Compared when saving, so both have to be written in the same way.
        current = config._values()
        config._shadows = [replace(shadow, from_environment=_look_up(current, shadow.path)) for shadow in shadows]
        return config

    @classmethod
    def from_env(cls) -> ClientConfigV1Alpha1:
        """Return the config that the environment alone describes.

        Raises:
            ValueError: name or namespace is not set, or something is wrong.
        """
        return cls()

    @classmethod
    def try_from_env(cls) -> ClientConfigV1Alpha1 | None:
        """Return the config that the environment alone describes, or None when it names no client."""
        try:
            return cls.from_env()
        except ValidationError:
            return None

    @classmethod
    def load(cls, alias: str) -> ClientConfigV1Alpha1:
        """Read the config `alias`; errors as of `from_file`."""
        return cls.from_file(cls._get_path(alias))

    def _values(self) -> dict[str, Any]:
        """What a file says, in order; members that older peers don't know only when they say something."""
        values = self.model_dump(mode="json", exclude={"alias", "path", "shell", "leases"}, exclude_none=True)
        for name, part in (("shell", self.shell), ("leases", self.leases)):
            if said := part.model_dump(mode="json", exclude_defaults=True):
                values[name] = said
        return values

    @classmethod
    def dump_yaml(cls, config: ClientConfigV1Alpha1) -> str:
        """Return the text of a config file; what only the environment says now is not in it."""
        from .document import dump

        values = config._values()
        uncover(values, config._shadows)
        return dump({name: value for name, value in values.items() if value or name not in ("shell", "leases")})

    @classmethod
    def save(cls, config: ClientConfigV1Alpha1, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the config as a whole, readable by its owner alone.

        Args:
            config: what to write; its `path` becomes that of the file.
            path: where to; by default the file of its alias.

        Returns:
            The path of the file.
        """
        from .document import write_secret

        target = cls._get_path(config.alias) if path is None else Path(path)
        write_secret(target, cls.dump_yaml(config))
        config.path = target
        return target

    @classmethod
    def exists(cls, alias: str) -> bool:
        """Whether there is a config `alias`."""
        return cls._get_path(alias).exists()

    @classmethod
    def list(cls) -> ClientConfigListV1Alpha1:
        """Return all configs as their files say, sorted by alias.

        What can't be read is reported in the log and left out.
        """
        import logging

        from jumpstarter.common.exceptions import ConfigurationError

        from .user import current_alias

        configs = []
        for path in sorted(Path(cls.CLIENT_CONFIGS_PATH).glob("*.yaml")):
            try:
                configs.append(cls._read(path, ()))
            except (ConfigurationError, OSError) as error:
                logging.getLogger(__name__).warning("left out of the list: %s", error)
        return ClientConfigListV1Alpha1(currentConfig=current_alias(), items=configs)

    @classmethod
    def delete(cls, alias: str) -> Path:
        """Remove the config `alias`.

        Raises:
            FileNotFoundError: there is none.
        """
        path = cls._get_path(alias)
        try:
            path.unlink()
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(f"Client config '{path}' does not exist") from None
        return path


_WHOLE_MEMBERS = tuple(setting for setting in CLIENT if setting.path in (("shell",), ("leases",)))


def _look_up(values: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        values = values.get(step) if isinstance(values, dict) else None
    return values


class ClientConfigListV1Alpha1(BaseModel):
    """All client configs of the user."""

    model_config = ConfigDict(defer_build=True, populate_by_name=True)

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default=CONFIG_API_VERSION)
    current_config: str | None = Field(alias="currentConfig")
    items: builtins.list[ClientConfigV1Alpha1]
    kind: Literal["ClientConfigList"] = Field(default="ClientConfigList")

    _HIDDEN: ClassVar[dict[str, Any]] = {"items": {"__all__": {"refresh_token"}}}

    def dump_json(self) -> str:
        """Return JSON with an indent of 4, without refresh tokens."""
        return self.model_dump_json(indent=4, by_alias=True, exclude=self._HIDDEN)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys, without refresh tokens."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True, exclude=self._HIDDEN), indent=2)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of configs."""
        for column in ("CURRENT", "ALIAS", "ENDPOINT", "PATH"):
            table.add_column(column)

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per config; a star marks the current one."""
        for item in self.items:
            mark = "*" if item.alias == self.current_config else ""
            table.add_row(mark, item.alias, item.endpoint or "", str(item.path))

    def rich_add_names(self, names: builtins.list[str]) -> None:
        """Append the alias of each config."""
        names.extend(item.alias for item in self.items)
