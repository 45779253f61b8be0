"""The options that choose a client or exporter config, and the rules when none is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.env import JMP_CLIENT, JMP_CLIENT_CONFIG
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1

from .aliases import complete_alias
from .exceptions import ClickExceptionRed, describe_any

CLIENT_OPTIONS = ("client", "client_config")
EXPORTER_OPTIONS = ("exporter", "exporter_config")

_PATH_OPTIONS = {"client": "client_config", "exporter": "exporter_config"}

NO_CONFIG_HINT = (
    "Log in with `jmp login`, create a config with `jmp config client create ALIAS`, choose one with "
    "`jmp config client use ALIAS`, or give --client ALIAS or --client-config PATH."
)


def opt_config(*, client: bool = True, exporter: bool = True, allow_missing: bool = False) -> Callable[[Any], Any]:
    """Return a decorator that adds the options for a config and passes the config as keyword `config`.

    Args:
        client: offer `--client` and `--client-config`; without any option, the environment and then the current client
            decide.
        exporter: offer `--exporter` and `--exporter-config`.
        allow_missing: pass `(parameter name, value)` instead of failing when the config doesn't exist.
    """
    return partial(opt_config_inner, client=client, exporter=exporter, allow_missing=allow_missing)


def opt_config_inner(f: Any, *, client: bool, exporter: bool, allow_missing: bool) -> Any:
    """Do the work of `opt_config`."""

    @wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name, None) for name in (*CLIENT_OPTIONS, *EXPORTER_OPTIONS)}
        config = _select(
            {name: value for name, value in given.items() if value is not None},
            client=client,
            exporter=exporter,
            allow_missing=allow_missing,
        )
        return f(*args, **kwargs, config=config)

    return _add_options(wrapper, client=client, exporter=exporter)


def _add_options(f: Any, *, client: bool, exporter: bool) -> Any:
    path = click.Path(dir_okay=False, path_type=str)
    if exporter:
        f = click.option("--exporter-config", type=path, metavar="PATH", help="Path of an exporter config file.")(f)
        f = click.option(
            "--exporter",
            metavar="ALIAS",
            shell_complete=complete_alias("exporters"),
            help="Alias of an exporter config.",
        )(f)
    if client:
        f = click.option("--client-config", type=path, metavar="PATH", help="Path of a client config file.")(f)
        f = click.option(
            "--client", metavar="ALIAS", shell_complete=complete_alias("clients"), help="Alias of a client config."
        )(f)
    return f


def _select(given: dict[str, str], *, client: bool, exporter: bool, allow_missing: bool) -> Any:
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"Only one config can be used, but {names} are given.")
    if given:
        name, value = next(iter(given.items()))
        # A value that can only be a path is one, whichever of the two options it was given to.
        if name in _PATH_OPTIONS and (os.sep in value or value.endswith((".yaml", ".yml"))):
            name = _PATH_OPTIONS[name]
        return _load(name, value, allow_missing=allow_missing)
    if client:
        return _default_client(allow_missing=allow_missing)
    raise click.BadParameter("one of --exporter ALIAS and --exporter-config PATH is required", param_hint="--exporter")


def _load(name: str, value: str, *, allow_missing: bool) -> Any:
    loaders: dict[str, Callable[[str], Any]] = {
        "client": ClientConfigV1Alpha1.load,
        "client_config": ClientConfigV1Alpha1.from_file,
        "exporter": ExporterConfigV1Alpha1.load,
        "exporter_config": ExporterConfigV1Alpha1.load_path,
    }
    try:
        return loaders[name](value)
    except FileNotFoundError as error:
        if allow_missing:
            return name, value
        raise _failed(error) from error
    except (JumpstarterException, ValueError, OSError) as error:
        raise _failed(error) from error


def _failed(error: Exception) -> ClickExceptionRed:
    failure = describe_any(error)
    return ClickExceptionRed(f"Failed to load config: {failure.message}", reason=failure.reason, hint=failure.hint)


def _default_client(*, allow_missing: bool) -> Any:
    """Find the client config as the environment says, else the user's current one."""
    if path := os.environ.get(JMP_CLIENT_CONFIG):
        return _load("client_config", str(Path(path).expanduser()), allow_missing=False)
    if alias := os.environ.get(JMP_CLIENT):
        return _load("client", alias, allow_missing=False)
    try:
        return ClientConfigV1Alpha1()  # built from the environment alone
    except ValueError:
        # Namespace and name are not both in the environment.
        pass
    try:
        # Looking must not leave a file behind.
        current = UserConfigV1Alpha1.load().config.current_client if UserConfigV1Alpha1.exists() else None
    except (ValueError, OSError) as error:
        raise _failed(error) from error
    if current is not None:
        return current
    if allow_missing:
        return "client", "default"
    raise ClickExceptionRed("No client config is chosen.", reason="configuration", hint=NO_CONFIG_HINT)
