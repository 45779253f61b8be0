"""Writes the package of a new driver from the templates beside this module."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import click

TEMPLATES = Path(__file__).with_name("templates")
SUFFIX = ".tmpl"
PREFIX = "jumpstarter-driver-"


@dataclass(frozen=True)
class DriverNames:
    """The names of a driver package, all made from one."""

    distribution: str
    """`jumpstarter-driver-my-board`"""
    module: str
    """`jumpstarter_driver_my_board`"""
    class_name: str
    """`MyBoard`"""
    instance: str
    """`my_board`, as in an exporter config."""

    @classmethod
    def from_name(cls, name: str, class_name: str | None = None) -> DriverNames:
        """Make the names.

        Raises:
            click.UsageError: `name` or `class_name` can't name a package or class.
        """
        short = re.sub(r"[-_.]+", "-", name.strip().lower()).removeprefix(PREFIX)
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", short):
            raise click.UsageError(
                f"'{name}' can't name a driver: use letters, digits and dashes, a letter first, such as 'my-board'."
            )
        instance = short.replace("-", "_")
        made = class_name or "".join(part.capitalize() for part in short.split("-"))
        if not made.isidentifier() or keyword.iskeyword(made):
            raise click.UsageError(f"'{made}' can't name a class; give another one with --class-name.")
        return cls(
            distribution=PREFIX + short,
            module=PREFIX.replace("-", "_") + instance,
            class_name=made,
            instance=f"{instance}_" if keyword.iskeyword(instance) else instance,
        )


def write_package(names: DriverNames, out: Path, *, description: str | None = None, author: str | None = None) -> Path:
    """Write the package into a new folder below `out` and return that folder.

    Raises:
        click.ClickException: the folder exists already and isn't empty.
        OSError: it can't be written.
    """
    folder = out / names.distribution
    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} exists already and is not empty; choose another --out or NAME.")
    text = " ".join((description or f"Jumpstarter driver for {names.instance.replace('_', ' ').strip()}").split())
    text = text.rstrip(".")
    values = {
        "distribution": names.distribution,
        "module": names.module,
        "class_name": names.class_name,
        "instance": names.instance,
        "description": text,
        "description_toml": _toml(text),
        "description_python": text.replace("\\", "\\\\").replace('"', '\\"'),
        "authors_toml": _authors(author),
    }
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        relative = str(template.relative_to(TEMPLATES)).removesuffix(SUFFIX).replace("MODULE", names.module)
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text("utf-8")).substitute(values), "utf-8")
    return folder


def _toml(text: str) -> str:
    """Return a TOML string; JSON's escapes are a subset of TOML's."""
    import json

    return json.dumps(text, ensure_ascii=False)


def _authors(author: str | None) -> str:
    if not author:
        return ""
    match = re.fullmatch(r"\s*(?P<name>[^<>]*?)\s*(?:<(?P<mail>[^<>]+)>)?\s*", author)
    if match is None:
        raise click.UsageError(f"'{author}' is not of the form 'Name <mail@example.com>'.")
    parts = [f"{key} = {_toml(value)}" for key, value in (("name", match["name"]), ("email", match["mail"])) if value]
    return f"authors = [{{ {', '.join(parts)} }}]\n" if parts else ""
