"""What client, exporter and user configs have in common: where they lie and whom they are for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .env import JMP_CLIENT_CONFIG_HOME, JMP_NAME, JMP_NAMESPACE

if TYPE_CHECKING:
    CONFIG_PATH: Path

CONFIG_API_VERSION: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"
"""The `apiVersion` of all config files."""


def config_path() -> Path:
    """Return the directory of all configs, as the environment says now."""
    if home := os.environ.get(JMP_CLIENT_CONFIG_HOME):
        return Path(home)
    from xdg_base_dirs import xdg_config_home

    return xdg_config_home() / "jumpstarter"


def __getattr__(name: str) -> Any:
    # A constant for those who import it, but one that follows the environment until they do.
    if name == "CONFIG_PATH":
        return config_path()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PathOnUse:
    """Class variable that is a path computed each time it is read; assigning to the class replaces it."""

    def __init__(self, compute: Callable[[], Path]) -> None:
        self._compute = compute

    def __get__(self, instance: object, owner: type | None = None) -> Path:
        return self._compute()


class ObjectMeta(BaseModel):
    """Namespace and name of a client or exporter; what is not given is taken from the environment."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    namespace: str | None = Field()
    name: str = Field()

    def __init__(self, **data: Any) -> None:
        # Spelled out so that type checkers accept a call that leaves members to the environment.
        super().__init__(**data)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        found = {"namespace": os.environ.get(JMP_NAMESPACE), "name": os.environ.get(JMP_NAME)}
        return {key: value for key, value in found.items() if value} | data


def validate_alias(kind: str, alias: str) -> str:
    """Return `alias` if it can name a config file.

    Raises:
        ConfigurationError: it is empty, `.`, `..` or holds a path separator.
    """
    from jumpstarter.common.exceptions import ConfigurationError

    separators = {"/", "\\", "\0", os.sep, os.altsep}
    if alias in ("", ".", "..") or any(mark and mark in alias for mark in separators):
        raise ConfigurationError(
            f"Invalid {kind} alias {alias!r}: it names a file, so it must not be empty, '.', '..' or hold a slash"
        )
    return alias
