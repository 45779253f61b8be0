"""What a driver class tells about itself: settings, methods, commands."""

from __future__ import annotations

import inspect
from typing import Any

from jumpstarter.driver import Driver
from jumpstarter.driver.decorators import (
    MARKER_DRIVERCALL,
    MARKER_MAGIC,
    MARKER_STREAMCALL,
    MARKER_STREAMING_DRIVERCALL,
)

from .commands import commands_of
from .installed import InstalledDriver
from .requirements import requirements_of

KINDS = {MARKER_DRIVERCALL: "call", MARKER_STREAMING_DRIVERCALL: "streaming call", MARKER_STREAMCALL: "stream"}

TITLES = {
    "Settings (`config` in an exporter config)": "settings",
    "Methods": "methods",
    "Commands (after `j` and the driver's name)": "commands",
}


class DriverDescription:
    """A driver class, its settings, and what clients can ask of it."""

    def __init__(self, installed: InstalledDriver, driver_class: Any) -> None:
        self.installed = installed
        self.values: dict[str, Any] = {
            "name": installed.name,
            "type": installed.type,
            "package": installed.package,
            "version": installed.version,
            "client": _client(driver_class),
            "description": inspect.getdoc(driver_class) or "",
            "settings": _settings(driver_class),
            "methods": _methods(driver_class),
            "commands": commands_of(_client(driver_class)),
            "requirements": requirements_of(driver_class),
        }

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return the description as plain values."""
        return self.values

    def text(self) -> str:
        """Return the description for people."""
        values = self.values
        lines = [f"{title.capitalize()}: {values[title]}" for title in ("name", "type", "client")]
        lines.append(f"Package: {values['package']} {values['version']}".rstrip())
        if values["description"]:
            lines += ["", values["description"]]
        for title, items in TITLES.items():
            if values[items]:
                lines += ["", f"{title}:"]
                lines += [f"  {_line(item)}" for item in values[items]]
        if values["requirements"]:
            lines += ["", "Needs (check with `jmp driver doctor`):"]
            lines += [f"  {what}  ({hint})" for what, hint in values["requirements"].items()]
        return "\n".join(lines)


def _line(item: dict[str, Any]) -> str:
    text = item["signature"]
    return f"{text}  -  {item['help']}" if item["help"] else text


def _client(driver_class: Any) -> str:
    try:
        return str(driver_class.client())
    except Exception as error:  # noqa: BLE001 - a driver's own code; the rest of the description is still worth having
        return f"unknown ({type(error).__name__}: {error})"


def _settings(driver_class: Any) -> list[dict[str, Any]]:
    """Return the keyword arguments that are the driver's own, not those of every driver."""
    common = set(inspect.signature(Driver.__init__).parameters)
    try:
        parameters = inspect.signature(driver_class).parameters
    except (TypeError, ValueError):
        return []
    return [
        {
            "name": name,
            "required": parameter.default is inspect.Parameter.empty,
            "signature": f"{name}: {_type_text(parameter)}{_default_text(parameter)}",
            "help": "",
        }
        for name, parameter in parameters.items()
        if name not in common and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _type_text(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default_text(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return " (required)"
    text = repr(getattr(parameter.default, "value", parameter.default))
    # Factories and sentinels of dataclass libraries say nothing to a reader.
    return "" if text.startswith("<") else f" = {text}"


def _methods(driver_class: Any) -> list[dict[str, Any]]:
    found = []
    for name in sorted(dir(driver_class)):
        function = inspect.getattr_static(driver_class, name)
        kinds = [kind for marker, kind in KINDS.items() if getattr(function, marker, None) == MARKER_MAGIC]
        if kinds:
            found.append(
                {
                    "name": name,
                    "kind": kinds[0],
                    "signature": f"{name}{_signature(function)}" + ("" if kinds[0] == "call" else f"  [{kinds[0]}]"),
                    "help": (inspect.getdoc(function) or "").partition("\n")[0],
                }
            )
    return found


class _Plain:
    """An annotation that is text, shown without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _plain(annotation: Any) -> Any:
    return _Plain(annotation) if isinstance(annotation, str) else annotation


def _signature(function: Any) -> str:
    try:
        signature = inspect.signature(inspect.unwrap(function))
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        parameter.replace(annotation=_plain(parameter.annotation))
        for parameter in list(signature.parameters.values())[1:]
    ]
    shown = signature.replace(parameters=parameters, return_annotation=_plain(signature.return_annotation))
    return str(shown)
