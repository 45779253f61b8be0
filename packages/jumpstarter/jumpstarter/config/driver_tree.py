"""Turns driver entries of a config into driver objects, and what goes wrong there into errors that name the entry."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jumpstarter.common.exceptions import ConfigurationError, JumpstarterException

from .document import InvalidConfigError, Location, dotted, read_document
from .exporter import (
    COMPOSITE,
    PROXY,
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstance,
    ExporterConfigV1Alpha1DriverInstanceBase,
    ExporterConfigV1Alpha1DriverInstanceComposite,
    ExporterConfigV1Alpha1DriverInstanceProxy,
)

if TYPE_CHECKING:
    from jumpstarter.driver import Driver

logger = logging.getLogger(__name__)

Entry = (
    ExporterConfigV1Alpha1DriverInstance
    | ExporterConfigV1Alpha1DriverInstanceBase
    | ExporterConfigV1Alpha1DriverInstanceComposite
    | ExporterConfigV1Alpha1DriverInstanceProxy
)


def instantiate_root(config: ExporterConfigV1Alpha1) -> Driver:
    """Return the root driver of an exporter, children first.

    Raises:
        ConfigurationError: with file, line and key of the entry at fault.
    """
    try:
        root = _grouped({name: entry.root for name, entry in config.export.items()}, ("export",), config.description)
        _check_references(root)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{_place(config.path, error.location)}{error.message}", error.location) from (
            error.__cause__
        )
    return root


def _check_references(root: Driver) -> None:
    """Follow the references between drivers, so that one that leads nowhere is known before anything is served."""
    try:
        root.enumerate()
    except ConfigurationError as error:
        _close(root)
        raise InvalidConfigError(error.message, ("export",)) from error.__cause__


def _close(driver: Driver) -> None:
    """Close a driver of a tree that can't be made."""
    try:
        driver.close()
    except Exception as error:  # noqa: BLE001 (drivers of any kind; the first failure is the one to tell)
        logger.warning("closing driver %s failed: %s", type(driver).__name__, error)


def _place(path: Path | None, location: Location) -> str:
    """`file:line: ` of a driver entry, as far as the file still tells."""
    if path is None:
        return ""
    with contextlib.suppress(OSError, ConfigurationError):
        return f"{read_document(path).where(location)}: "
    return f"{path}: "


def instantiate(entry: Entry) -> Driver:
    """Return the driver of one entry that stands alone."""
    return _instantiate(entry, ())


def _instantiate(entry: Entry, location: Location) -> Driver:
    if isinstance(entry, ExporterConfigV1Alpha1DriverInstance):
        entry = entry.root
    match entry:
        case ExporterConfigV1Alpha1DriverInstanceProxy():
            return _construct(PROXY, {"ref": entry.ref}, location)
        case ExporterConfigV1Alpha1DriverInstanceComposite():
            return _grouped(entry.children, (*location, "children"), None)
    return _driver(entry, location)


def _grouped(entries: dict[str, Any], location: Location, description: str | None) -> Driver:
    with _children(entries, location) as children:
        return _construct(COMPOSITE, {"children": children, "description": description}, location)


def _driver(entry: ExporterConfigV1Alpha1DriverInstanceBase, location: Location) -> Driver:
    driver_class = _find_class(entry.type, location)
    _check_config(driver_class, entry, location)
    extras: dict[str, Any] = {}
    if entry.description is not None:
        extras["description"] = entry.description
    if entry.methods_description:
        extras["methods_description"] = entry.methods_description
    with _children(entry.children, (*location, "children")) as children:
        if children or "children" not in entry.config:
            extras["children"] = children
        return _construct(entry.type, entry.config | extras, location)


@contextlib.contextmanager
def _children(entries: dict[str, Any], location: Location) -> Any:
    """Yield the drivers of `entries`; when something fails, those that were made are closed again."""
    made: dict[str, Driver] = {}
    try:
        for name, entry in entries.items():
            made[name] = _instantiate(entry, (*location, name))
        yield made
    except BaseException:
        for driver in reversed(list(made.values())):
            _close(driver)
        raise


def _find_class(path: str, location: Location) -> type[Driver]:
    from jumpstarter.common.importlib import import_class

    try:
        found = import_class(path, [], unsafe=True)
    except (JumpstarterException, ImportError) as error:
        raise InvalidConfigError(f"{_called(location, path)}: {_not_found(path, error)}", (*location, "type")) from None
    if not isinstance(found, type) or not hasattr(found, "enumerate") or not hasattr(found, "client"):
        raise InvalidConfigError(
            f"{_called(location, path)}: this is no driver class; 'type' needs the dotted path of a class "
            "derived from jumpstarter.driver.Driver",
            (*location, "type"),
        )
    return found


def _not_found(path: str, error: Exception) -> str:
    """Say why the class can't be had, and what to install or write instead."""
    package, module = path.partition(".")[0], path.rpartition(".")[0]
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name == package:
        text = (
            f"no Python module '{package}' is installed on this exporter; "
            f"install the driver with: pip install {package.replace('_', '-')}"
        )
        similar = _similar(path)
        return f"{text}; or did you mean '{similar}'?" if similar else text
    if isinstance(cause, AttributeError) and (loaded := sys.modules.get(module)) is not None:
        known = [name for name, value in vars(loaded).items() if isinstance(value, type) and hasattr(value, "client")]
        name = path.rpartition(".")[2]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "a newer version of the package may have it"
        return f"module '{module}' has no class '{name}'; {hint}"
    return error.message if isinstance(error, JumpstarterException) else str(error)


def _similar(path: str) -> str | None:
    """Return the installed driver that a misspelt path means; the prefix that all packages share tells nothing."""
    stems = {installed: _stem(installed) for installed in _installed()}
    if not (package := get_close_matches(_stem(path), set(stems.values()), n=1, cutoff=0.75)):
        return None
    return get_close_matches(path, [known for known in stems if stems[known] == package[0]], n=1, cutoff=0)[0]


def _stem(path: str) -> str:
    return path.partition(".")[0].removeprefix("jumpstarter_driver_")


def _installed() -> list[str]:
    """Dotted paths of the drivers that installed packages announce."""
    from importlib.metadata import entry_points

    return [entry.value.replace(":", ".") for entry in entry_points(group="jumpstarter.drivers")]


def _check_config(
    driver_class: type[Driver], entry: ExporterConfigV1Alpha1DriverInstanceBase, location: Location
) -> None:
    """Refuse members that the driver doesn't know; classes that validate by pydantic would ignore them."""
    here = (*location, "config")
    name = _called(location, entry.type)
    for key, reserved in (
        ("children", bool(entry.children)),
        ("description", entry.description is not None),
        ("methods_description", bool(entry.methods_description)),
    ):
        if reserved and key in entry.config:
            raise InvalidConfigError(f"{name}: '{key}' is given beside 'config' and inside it; keep one", (*here, key))
    known = _accepted(driver_class)
    if known is None:
        return
    for key in entry.config:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            own = ", ".join(sorted(known - _BASE_MEMBERS)) or "none"
            hint = f"did you mean '{near[0]}'?" if near else f"it takes: {own}"
            raise InvalidConfigError(f"{name}: unknown config key '{key}'; {hint}", (*here, str(key)))


_BASE_MEMBERS = frozenset({"uuid", "labels", "children", "log_level", "description", "methods_description"})


def _accepted(driver_class: type[Driver]) -> set[str] | None:
    """Names that the class can be called with, or None when it takes any."""
    try:
        parameters = inspect.signature(driver_class).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    names = {parameter.name for parameter in parameters}
    if dataclasses.is_dataclass(driver_class):
        names |= {member.name for member in dataclasses.fields(driver_class) if member.init}
    for name, member in getattr(driver_class, "__pydantic_fields__", {}).items():
        if member.init is not False:
            names |= {name, *(alias for alias in (member.alias, member.validation_alias) if isinstance(alias, str))}
    return names


def _construct(path: str, arguments: dict[str, Any], location: Location) -> Driver:
    """Call the driver class; what it refuses becomes an error that names the entry."""
    driver_class = _find_class(path, location)
    name = _called(location, path)
    try:
        return driver_class(**arguments)
    except ValidationError as error:
        problems = "; ".join(_explain(detail) for detail in error.errors(include_url=False))
        raise InvalidConfigError(f"{name}: {problems}", (*location, "config")) from None
    except JumpstarterException as error:
        if isinstance(error, InvalidConfigError) and error.location:
            raise
        raise InvalidConfigError(f"{name}: {error.message}", location) from error.__cause__
    except TypeError as error:
        raise InvalidConfigError(f"{name}: {_explain_call(driver_class, error)}", (*location, "config")) from error
    except ImportError as error:
        raise InvalidConfigError(
            f"{name}: the driver needs the Python module '{error.name or error}', which is not installed; "
            f"install the driver's package with its extras on the exporter",
            (*location, "type"),
        ) from error
    except Exception as error:
        # Drivers stand on libraries with exceptions of all kinds.
        raise InvalidConfigError(f"{name}: the driver can't be set up", (*location, "config")) from error


def _explain(detail: Any) -> str:
    key = dotted(tuple(detail["loc"]))
    if detail["type"] == "missing":
        return f"config key '{key}' is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"config key '{key}': {message[:1].lower()}{message[1:]}" if key else message


def _explain_call(driver_class: type[Driver], error: TypeError) -> str:
    """Name the missing members when that is what the TypeError of a constructor is about."""
    text = str(error)
    if "missing" in text and "required" in text:
        names = text.rpartition(": ")[2]
        return f"config lacks {names}"
    return "the driver can't be set up"


def _called(location: Location, path: str) -> str:
    return f"driver {dotted(location)} ({path})" if location else f"driver ({path})"
