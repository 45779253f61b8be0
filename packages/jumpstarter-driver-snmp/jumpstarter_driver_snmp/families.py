"""Families of power distribution units as data: objects and values, from the package's table or the user's own.

No key is called `on` or `off`, which YAML reads as yes and no.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

PLACEHOLDERS = ("outlet", "unit", "infeed")
"""What the object identifiers of a family may leave open."""

_COMPONENT = re.compile(r"[0-9]+|\{(?:" + "|".join(PLACEHOLDERS) + r")\}")
_LARGEST = 0xFFFFFFFF


def checked_oid(text: str) -> str:
    """Return an object identifier without a leading dot.

    Raises:
        ValueError: it is none.
    """
    components = text.strip().removeprefix(".").split(".")
    fixed = [int(part) for part in components if part.isascii() and part.isdigit()]
    if (
        len(components) < 2
        or not all(_COMPONENT.fullmatch(part) for part in components)
        or any(number > _LARGEST for number in fixed)
        or components[0] not in ("0", "1", "2")
        or (components[0] != "2" and components[1].isdigit() and int(components[1]) > 39)
    ):
        raise ValueError(
            f"{text!r} is no object identifier: numbers with dots between, such as 1.3.6.1.4.1.318, "
            f"and the placeholders {', '.join('{' + name + '}' for name in PLACEHOLDERS)}"
        )
    return ".".join(components)


Oid = Annotated[str, AfterValidator(checked_oid)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Command(_Part):
    """One integer that is written to one object."""

    oid: Oid
    value: int = Field(ge=-(2**31), lt=2**31)


class State(_Part):
    """The object that tells whether an outlet is on."""

    oid: Oid
    on_states: list[int] = Field(min_length=1)
    off_states: list[int] = Field(min_length=1)

    def name(self, value: int) -> str:
        """Return `on`, `off` or `unknown` for a value."""
        return "on" if value in self.on_states else "off" if value in self.off_states else "unknown"


class Measurement(_Part):
    """An object with a measured value."""

    oid: Oid
    scale: float = Field(default=1.0, gt=0)
    """Factor to volts, amperes or watts."""
    digits: Oid | None = None
    """Object with the number of digits behind the decimal point, where the unit tells that itself."""


class Family(_Part):
    """What units of one kind have in common."""

    title: str = ""
    switch_on: Command
    switch_off: Command
    state: State | None = None
    """None when the unit can't be asked; then the answer to a command has to do."""
    voltage: Measurement | None = None
    current: Measurement | None = None
    power: Measurement | None = None

    def at(self, **numbers: int) -> Family:
        """Return the family with its placeholders filled in: of one outlet."""

        def filled(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: filled(each) for key, each in value.items() if key != "title"}
            return value.format(**numbers) if isinstance(value, str) else value

        return Family.model_validate(filled(self.model_dump(exclude_none=True)))


@cache
def families() -> Mapping[str, Family]:
    """Return the families of the package by name."""
    text = resources.files(__package__).joinpath("families.yaml").read_text(encoding="utf-8")
    return {name: Family.model_validate(value) for name, value in yaml.safe_load(text).items()}


def find_family(wanted: str | Mapping[str, Any]) -> Family:
    """Return a family by its name in the package, by a YAML file that describes one, or by such a description.

    Raises:
        ValueError: there is no such family or file, or the description is wrong; the message tells what.
    """
    if isinstance(wanted, Mapping):
        return _described(wanted, "pdu")
    if not isinstance(wanted, str):
        raise ValueError(f"pdu must be a name, a YAML file or a description, not {wanted!r}")
    if wanted in families():
        return families()[wanted]
    if not wanted.endswith((".yaml", ".yml")):
        known = ", ".join(families())
        raise ValueError(f"pdu {wanted!r} is not known: use one of {known}, or the path of a .yaml file of your own")
    path = Path(wanted).expanduser()
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"pdu {wanted}: the file can't be used: {error}") from error
    return _described(value, str(path))


def _described(value: Any, where: str) -> Family:
    try:
        return Family.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc']) or 'it'}: {each['msg']}" for each in error.errors()
        )
        raise ValueError(f"{where} does not describe a power distribution unit: {problems}") from error


def family_of_control(oid: str) -> tuple[str, dict[str, int]] | None:
    """Return the family that is switched by `oid` plus an outlet number, with what the identifier fixes of it."""
    for name, template in _controls():
        pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
        for placeholder in PLACEHOLDERS:
            pattern = pattern.replace("{" + placeholder + "}", f"(?P<{placeholder}>[0-9]+)")
        if match := re.fullmatch(pattern, oid):
            return name, {key: int(number) for key, number in match.groupdict().items()}
    return None


def _controls() -> Iterator[tuple[str, str]]:
    """Yield family names with their control objects, as far as one object switches both ways."""
    for name, family in families().items():
        if family.switch_on.oid == family.switch_off.oid:
            yield name, family.switch_on.oid.removesuffix(".{outlet}")
