"""What the environment says about a config: it beats the file, and fills what an explicitly built config leaves out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jumpstarter.common.exceptions import ConfigurationError

from .env import (
    JMP_DIAL_TIMEOUT,
    JMP_DRIVERS_ALLOW,
    JMP_DRIVERS_UNSAFE,
    JMP_ENDPOINT,
    JMP_NAME,
    JMP_NAMESPACE,
    JMP_RETRY_TIMEOUT,
    JMP_TOKEN,
)

UNSAFE = "UNSAFE"
"""Member of a list of allowed client classes that allows all of them."""

_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})
_FALSE = frozenset({"0", "false", "no", "off", "n", "f"})

Path = tuple[str, ...]


def _text(name: str, value: str) -> str:
    return value


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be a number of seconds, not '{value}'") from None


def _boolean(name: str, value: str) -> bool:
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise ConfigurationError(f"{name} must be true or false, not '{value}'")


def split_allow(value: str) -> list[str]:
    """Split a comma-separated list of globs; an empty text is a list of one glob that matches nothing."""
    return [part.strip() for part in value.split(",")]


def _allow(name: str, value: str) -> list[str]:
    return split_allow(value)


def _mapping(name: str, value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} must hold a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name} must hold a JSON object, like {{}}")
    return found


@dataclass(frozen=True)
class Setting:
    """A variable and the member of a config that it sets."""

    variable: str
    path: Path
    read: Callable[[str, str], Any] = _text
    kept_when_empty: bool = False
    only_json: bool = False
    """The name is too likely to be somebody else's: what is no JSON object is not for us."""


IDENTITY = (
    Setting("JMP_METADATA", ("metadata",), _mapping),
    Setting(JMP_NAMESPACE, ("metadata", "namespace")),
    Setting(JMP_NAME, ("metadata", "name")),
)

CONNECTION = (
    Setting(JMP_ENDPOINT, ("endpoint",)),
    Setting(JMP_TOKEN, ("token",)),
    Setting("JMP_TLS", ("tls",), _mapping),
    Setting("JMP_GRPCOPTIONS", ("grpcOptions",), _mapping),
)

DRIVERS = (
    Setting("JMP_DRIVERS", ("drivers",), _mapping),
    Setting(JMP_DRIVERS_ALLOW, ("drivers", "allow"), _allow, kept_when_empty=True),
    Setting(JMP_DRIVERS_UNSAFE, ("drivers", "unsafe"), _boolean),
)

CLIENT = (
    *IDENTITY,
    *CONNECTION,
    *DRIVERS,
    Setting("JMP_SHELL", ("shell",), _mapping, only_json=True),
    Setting("JMP_LEASES", ("leases",), _mapping, only_json=True),
    Setting(JMP_RETRY_TIMEOUT, ("leases", "retry_timeout"), _number),
    Setting(JMP_DIAL_TIMEOUT, ("leases", "dial_timeout"), _number),
)
"""Everything that the environment may say about a client, wider settings first."""

EXPORTER = (*IDENTITY, *CONNECTION)
"""Everything that the environment may say about an exporter."""


def read(settings: tuple[Setting, ...]) -> dict[Path, Any]:
    """Return the values that the environment gives, by the member they set.

    Raises:
        ConfigurationError: a variable holds something that it can't mean.
    """
    found: dict[Path, Any] = {}
    for setting in settings:
        value = os.environ.get(setting.variable)
        if value is None or (not value and not setting.kept_when_empty):
            continue
        if setting.only_json and not value.lstrip().startswith("{"):
            continue
        found[setting.path] = setting.read(setting.variable, value)
    return found


@dataclass(frozen=True)
class Shadow:
    """A member for which the environment was preferred to the file."""

    path: Path
    from_environment: Any
    in_file: Any
    was_in_file: bool


def overlay(values: Mapping[str, Any], settings: tuple[Setting, ...]) -> tuple[dict[str, Any], list[Shadow]]:
    """Put the environment over `values`.

    Returns:
        New values, and for each member that changed what `uncover` needs to restore it.
    """
    result = dict(values)
    shadows = []
    for path, value in read(settings).items():
        *parents, last = path
        members: Any = result
        for step in parents:
            inner = members.get(step)
            if inner is not None and not isinstance(inner, dict):
                break  # a mistake in the file, which validation explains
            members[step] = members = dict(inner or {})
        else:
            if last not in members or members[last] != value:
                shadows.append(Shadow(path, value, members.get(last), last in members))
            members[last] = value
    return result, shadows


def uncover(values: dict[str, Any], shadows: list[Shadow]) -> None:
    """Undo `overlay` in place, so that what the environment said for now is not written to the file for good.

    A member that was changed since keeps its new value.
    """
    for shadow in reversed(shadows):
        *parents, last = shadow.path
        members: Any = values
        for step in parents:
            members = members.get(step)
            if not isinstance(members, dict):
                break
        else:
            if members.get(last) != shadow.from_environment:
                continue
            if shadow.was_in_file:
                members[last] = shadow.in_file
            else:
                members.pop(last, None)


def drivers_allowed() -> tuple[list[str], bool] | None:
    """Return the allowed client classes and whether all are, or None when the environment says nothing of it."""
    found = read(DRIVERS)
    if not found:
        return None
    drivers = dict(found.get(("drivers",), {}))
    allow: Any = found.get(("drivers", "allow"), drivers.get("allow", []))
    if isinstance(allow, str):
        allow = split_allow(allow)
    unsafe = found.get(("drivers", "unsafe"), drivers.get("unsafe", False))
    return allow, bool(unsafe) or UNSAFE in allow
