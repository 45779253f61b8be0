"""What the commands for client and exporter configs share: printing one, checking one, renaming one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from jumpstarter_cli_common.exceptions import ClickExceptionRed
from jumpstarter_cli_common.opt import OutputMode, OutputType

SECRETS = ("token", "refresh_token")
HIDDEN = "<hidden>"


def hide_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with its secrets replaced by a placeholder."""
    return {name: HIDDEN if name in SECRETS and value else value for name, value in values.items()}


def show(config: Any, output: OutputType, *, secrets: bool) -> None:
    """Print one config as it is in effect: as YAML for people and `-o yaml`, or as JSON, alias or path."""
    import json

    import yaml

    if output == OutputMode.NAME:
        click.echo(config.alias)
    elif output == OutputMode.PATH:
        click.echo(str(config.path))
    else:
        values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
        values = values if secrets else hide_secrets(values)
        if output == OutputMode.JSON:
            click.echo(json.dumps(values, indent=4, ensure_ascii=False))
        else:
            click.echo(yaml.safe_dump(values, indent=2, sort_keys=False, allow_unicode=True), nl=False)


def rename(source: Path, target: Path, kind: str) -> None:
    """Rename a config file, never over another one.

    Raises:
        ClickExceptionRed: there is no such config, or the new name is taken.
    """
    if not source.exists():
        raise ClickExceptionRed(f"{kind} config '{source}' does not exist.", reason="file-not-found")
    try:
        # A link fails where the target exists; a rename would replace it.
        os.link(source, target)
    except FileExistsError:
        raise ClickExceptionRed(f"{kind} config '{target}' exists already.", reason="already-exists") from None
    source.unlink()
