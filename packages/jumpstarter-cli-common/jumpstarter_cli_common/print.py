"""Prints models as tables, names, paths, JSON or YAML; machine formats are written as dumped, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from .opt import OutputMode, OutputType
from .table import Table

_NOTHING = "No resources found"


def model_print(model: Any, output: OutputType, namespace: str | None = None, **kwargs: Any) -> None:
    """Print `model` on stdout in the format `output`.

    A model takes part in a format through the hooks `rich_add_columns(table, **kwargs)` and
    `rich_add_rows(table, **kwargs)`, `rich_add_names(list)`, `rich_add_paths(list)`; with `-o wide` the first two also
    get `wide=True` if they accept it. JSON and YAML come from `dump_json()` and `dump_yaml()` where a model has them.

    Raises:
        NotImplementedError: the model lacks the hook of the format.
    """
    match output:
        case OutputMode.JSON:
            click.echo(dump_json(model))
        case OutputMode.YAML:
            click.echo(dump_yaml(model))
        case OutputMode.NAME | OutputMode.PATH:
            hook = "rich_add_names" if output == OutputMode.NAME else "rich_add_paths"
            lines: list[str] = []
            _hook(model, hook)(lines)
            for line in lines:
                click.echo(line)
        case _:
            _print_table(model, namespace, kwargs, wide=output == OutputMode.WIDE)


def _print_table(model: Any, namespace: str | None, kwargs: dict[str, Any], *, wide: bool) -> None:
    table = Table()
    for name in ("rich_add_columns", "rich_add_rows"):
        hook = _hook(model, name)
        hook(table, **(kwargs | ({"wide": True} if wide and _accepts(hook, "wide") else {})))
    click.echo(str(table), nl=False)
    if not table.rows:
        click.echo(f"{_NOTHING} in {namespace} namespace." if namespace else f"{_NOTHING}.", err=True)


def dump_json(model: Any) -> str:
    """Return the model as JSON with 4 spaces of indentation."""
    if callable(dump := getattr(model, "dump_json", None)):
        return str(dump())
    return json.dumps(model.model_dump(mode="json", by_alias=True), indent=4, ensure_ascii=False)


def dump_yaml(model: Any) -> str:
    """Return the model as YAML, ending in a newline."""
    if callable(dump := getattr(model, "dump_yaml", None)):
        return str(dump())
    import yaml

    return str(yaml.safe_dump(model.model_dump(mode="json", by_alias=True), indent=2))


def print_details(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts on stdout, one pair per line."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        printable = "".join(char if char.isprintable() else " " for char in text)
        click.echo(f"{name + ':':<{width + 1}}  {printable}")


def _hook(model: Any, name: str) -> Any:
    hook = getattr(model, name, None)
    if hook is None:
        raise NotImplementedError(f"{type(model).__name__} can't be printed in this format: it has no {name}()")
    return hook


def _accepts(function: Any, keyword: str) -> bool:
    import inspect

    parameters = inspect.signature(function).parameters.values()
    return any(p.name == keyword or p.kind is p.VAR_KEYWORD for p in parameters)
