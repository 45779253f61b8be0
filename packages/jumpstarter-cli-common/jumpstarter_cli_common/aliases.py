"""Aliases of the configs on this machine, for completion: read from file names alone, so that TAB stays fast."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click

SYSTEM_EXPORTERS = "/etc/jumpstarter/exporters"


def config_home() -> str:
    """Return the directory of all configs, by the same rules as `jumpstarter.config`."""
    if home := os.environ.get("JMP_CLIENT_CONFIG_HOME"):
        return home
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "jumpstarter")


def aliases(kind: str) -> list[str]:
    """Return the sorted aliases of a kind, `clients` or `exporters`."""
    directories = [os.path.join(config_home(), kind)]
    if kind == "exporters":
        directories.append(SYSTEM_EXPORTERS)
    return sorted({name.removesuffix(".yaml") for name in _files(directories) if name.endswith(".yaml")})


def _files(directories: Iterable[str]) -> Iterable[str]:
    for directory in directories:
        try:
            yield from os.listdir(directory)
        except OSError:
            continue


def complete_alias(kind: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return a completion function for options and arguments that take an alias of `clients` or `exporters`."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
        return [alias for alias in aliases(kind) if alias.startswith(incomplete)]

    return complete
