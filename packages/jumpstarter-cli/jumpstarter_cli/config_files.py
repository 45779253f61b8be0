"""What the commands for client and exporter configs share: what a new one asks for, printing one, renaming one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter_cli_common.exceptions import ClickExceptionRed
from jumpstarter_cli_common.opt import OutputMode, OutputType, PathOutputType, confirm_insecure_tls

from .prompts import ask

F = TypeVar("F", bound=Callable[..., Any])

SECRETS = ("token", "refresh_token")
HIDDEN = "<hidden>"


def announce(text: str, path: Path | str, output: PathOutputType) -> None:
    """Say what was done, or print only the path."""
    click.echo(str(path) if output == OutputMode.PATH else text)


def opt_identity(who: str, token_help: str) -> Callable[[F], F]:
    """Return the options by which a new config says who a client or exporter is: those of `ask_identity`."""

    def decorate(function: F) -> F:
        for option in (
            click.option("-t", "--token", default=None, help=token_help),
            click.option("-e", "--endpoint", default=None, help="Controller as host:port."),
            click.option("--name", default=None, help=f"Name of the {who} at the controller."),
            click.option("--namespace", default=None, help=f"Namespace of the {who} at the controller."),
        ):
            function = option(function)
        return function

    return decorate


def ask_identity(
    who: str,
    *,
    namespace: str | None,
    name: str | None,
    endpoint: str | None,
    token: str | None,
    insecure_tls: bool,
    nointeractive: bool,
) -> dict[str, Any]:
    """Return the members of a new config that client and exporter configs have alike; what is missing is asked for."""
    confirm_insecure_tls(insecure_tls, nointeractive)
    return {
        "metadata": ObjectMeta(
            namespace=ask(namespace, "--namespace", f"Namespace of the {who}", nointeractive=nointeractive),
            name=ask(name, "--name", f"Name of the {who}", nointeractive=nointeractive),
        ),
        "endpoint": ask(endpoint, "--endpoint", "Controller (host:port)", nointeractive=nointeractive),
        "token": ask(token, "--token", "Token", nointeractive=nointeractive, hidden=True),
        "tls": TLSConfigV1Alpha1(insecure=insecure_tls),
    }


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
