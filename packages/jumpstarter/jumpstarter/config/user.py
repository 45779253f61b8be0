"""The user config: which client config is the current one, and how a program finds the client to act as."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from jumpstarter.common.exceptions import ConfigurationError

from .client import ClientConfigV1Alpha1
from .common import CONFIG_API_VERSION, PathOnUse, config_path
from .env import JMP_CLIENT, JMP_CLIENT_CONFIG

__all__ = ["CurrentClient", "UserConfigV1Alpha1", "UserConfigV1Alpha1Config", "current_alias", "current_client"]

CurrentClient = ClientConfigV1Alpha1 | None
"""What the current client is to a program; files hold its alias."""


class UserConfigV1Alpha1Config(BaseModel):
    """Settings of a user."""

    model_config = ConfigDict(defer_build=True, extra="forbid", populate_by_name=True)

    current_client: CurrentClient = Field(alias="current-client", default=None)

    @field_validator("current_client", mode="before")
    @classmethod
    def _load(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace an alias by its config."""
        if not isinstance(value, str):
            return value
        if value == "":
            return None
        from jumpstarter.common.exceptions import FileNotFoundError

        try:
            return ClientConfigV1Alpha1.load(value)
        except FileNotFoundError:
            import logging

            logging.getLogger(__name__).warning(
                "the current client '%s' has no config any more; choose another one with 'jmp config client use'", value
            )
            return None

    @field_serializer("current_client", mode="wrap")
    def _dump(self, value: CurrentClient, handler: SerializerFunctionWrapHandler) -> str | None:
        return value.alias if value is not None else None


class UserConfigV1Alpha1(BaseModel):
    """The config of a user, one file."""

    model_config = ConfigDict(defer_build=True, extra="forbid", populate_by_name=True)

    BASE_CONFIG_PATH: ClassVar[Path] = cast(Path, PathOnUse(config_path))
    """Directory of all configs."""
    USER_CONFIG_PATH: ClassVar[Path] = cast(Path, PathOnUse(lambda: config_path() / "config.yaml"))

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: Literal["UserConfig"] = Field(default="UserConfig")
    config: UserConfigV1Alpha1Config

    @classmethod
    def exists(cls) -> bool:
        """Whether there is a user config."""
        return Path(cls.USER_CONFIG_PATH).exists()

    @classmethod
    def load(cls) -> UserConfigV1Alpha1:
        """Read the user config and that of the current client.

        Raises:
            FileNotFoundError: there is none.
            ConfigurationError: what is wrong in one of the two, with file, line and key. Also a ValueError.
        """
        from .document import build, read_document

        path = Path(cls.USER_CONFIG_PATH)
        try:
            document = read_document(path)
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(f"User config '{path}' does not exist; 'jmp config client use' makes one") from None
        return build(cls, document)

    @classmethod
    def load_or_create(cls) -> UserConfigV1Alpha1:
        """Read the user config, after writing an empty one where there is none."""
        if not cls.exists():
            cls.save(cls(config=UserConfigV1Alpha1Config()))
        return cls.load()

    @classmethod
    def dump_yaml(cls, config: UserConfigV1Alpha1) -> str:
        """Return the text of a user config file."""
        from .document import dump

        return dump(config.model_dump(mode="json", by_alias=True))

    @classmethod
    def save(cls, config: UserConfigV1Alpha1, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the config as a whole; by default as the user's own. Returns the path of the file."""
        from .document import write_secret

        target = Path(cls.USER_CONFIG_PATH) if path is None else Path(path)
        write_secret(target, cls.dump_yaml(config))
        return target

    def use_client(self, name: str | None) -> Path | None:
        """Make the client config `name` the current one, or none; saves the user config.

        Returns:
            The path of the client config.

        Raises:
            FileNotFoundError: there is no such client config.
        """
        self.config.current_client = ClientConfigV1Alpha1.load(name) if name is not None else None
        type(self).save(self)
        return self.config.current_client.path if self.config.current_client is not None else None


def current_alias() -> str | None:
    """Return the alias of the current client as the user config says, whether or not there is such a config."""
    from .document import read_document

    try:
        document = read_document(Path(UserConfigV1Alpha1.USER_CONFIG_PATH))
    except (FileNotFoundError, ConfigurationError):
        return None
    config = document.data.get("config") if document.is_mapping else None
    alias = config.get("current-client") if isinstance(config, dict) else None
    return alias if isinstance(alias, str) and alias else None


def current_client() -> ClientConfigV1Alpha1 | None:
    """Return the client to act as where none is named, or None.

    In this order: the file `$JMP_CLIENT_CONFIG`, the alias `$JMP_CLIENT`, a client that the environment
    describes by itself (`$JMP_NAMESPACE` and `$JMP_NAME`), the current client of the user config.

    Raises:
        FileNotFoundError: the environment names a config that does not exist.
        ConfigurationError: a config that was chosen has mistakes.
    """
    if path := os.environ.get(JMP_CLIENT_CONFIG):
        return ClientConfigV1Alpha1.from_file(Path(path).expanduser())
    if alias := os.environ.get(JMP_CLIENT):
        return ClientConfigV1Alpha1.load(alias)
    described = ClientConfigV1Alpha1.try_from_env()
    if described is not None:
        return described
    if not UserConfigV1Alpha1.exists():
        return None
    return UserConfigV1Alpha1.load().config.current_client
