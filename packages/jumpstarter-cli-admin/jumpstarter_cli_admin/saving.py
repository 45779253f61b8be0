"""Writing the configs with which clients, exporters, admins and routers act as their accounts."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter.config.client import ClientConfigV1Alpha1, ClientConfigV1Alpha1Drivers
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.router import RouterConfigV1Alpha1
from jumpstarter.config.tls import TLSConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1, current_alias
from jumpstarter_cli_common.exceptions import ClickExceptionRed

from .records import Credentials, Kind

CONFIGS: dict[Kind, Any] = {
    Kind.CLIENT: ClientConfigV1Alpha1,
    Kind.EXPORTER: ExporterConfigV1Alpha1,
    Kind.ADMIN: AdminConfigV1Alpha1,
    Kind.ROUTER: RouterConfigV1Alpha1,
}

EXPORT_HINT = """\
# The drivers of this exporter go under "export", each with a name of your choice:
#
# export:
#   power:
#     type: jumpstarter_driver_power.driver.MockPower
#
# `jmp driver list` shows the drivers that are installed, `jmp driver show NAME` what one can be told.
# Then check the config with `jmp config exporter validate ALIAS`, and serve it with `jmp run --exporter ALIAS`.
"""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What config is to be written where."""

    kind: Kind
    alias: str
    out: Path | None = None
    """None for the file of the alias."""
    allow: tuple[str, ...] | None = None
    """Of a client: patterns of the classes that may be imported; None leaves those of a config that is there."""
    unsafe: bool = False
    insecure_tls: bool = False
    listen: str | None = None
    """Of a router."""
    advertise: str | None = None

    @property
    def path(self) -> Path:
        """Where it is written to."""
        if self.out is not None:
            return self.out
        if self.kind in (Kind.CLIENT, Kind.EXPORTER):
            return Path(CONFIGS[self.kind]._get_path(self.alias))
        return Path(CONFIGS[self.kind].path_of(self.alias))

    def check(self) -> None:
        """Look whether the config can be written, before anything is done that asks for it.

        Raises:
            ClickExceptionRed: it can't.
        """
        target = Path(os.path.realpath(self.path))
        folder = target.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if self.out is not None and folder != target.parent:
            raise ClickExceptionRed(f"The folder '{target.parent}' does not exist.", reason="file-not-found")
        if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ClickExceptionRed(
                f"The config '{self.path}' can't be written.",
                reason="file-access",
                hint="Choose another place with --out FILE.",
            )
        self.present()

    def present(self) -> Any:
        """Return the config that is there already, whose other members stay; None if there is none."""
        if not self.path.exists():
            return None
        loader = CONFIGS[self.kind]
        read = loader.load_path if self.kind is Kind.EXPORTER else loader.from_file
        return read(self.path)


def save(wanted: Wanted, credentials: Credentials) -> Path:
    """Write a config that acts as an account, and return its path.

    A config that is there keeps what says nothing of the account: the drivers of an exporter, for example.
    """
    config = wanted.present()
    is_new = config is None
    account = credentials.account
    members: dict[str, Any] = {
        "metadata": ObjectMeta(namespace=account.namespace, name=account.name),
        "endpoint": credentials.endpoint,
        "tls": TLSConfigV1Alpha1(
            ca=base64.b64encode(credentials.ca.encode()).decode() if credentials.ca else "",
            insecure=wanted.insecure_tls or bool(config is not None and config.tls.insecure),
        ),
        "token": credentials.token,
    }
    if wanted.kind is Kind.CLIENT:
        members |= {"refresh_token": None}
        if wanted.allow is not None or wanted.unsafe or config is None:
            members["drivers"] = ClientConfigV1Alpha1Drivers(allow=list(wanted.allow or ()), unsafe=wanted.unsafe)
    if wanted.kind is Kind.ROUTER:
        given = {"listen": wanted.listen, "advertise": wanted.advertise}
        members |= {name: value for name, value in given.items() if value is not None}
        members["labels"] = dict(account.labels)
    if config is None:
        config = CONFIGS[wanted.kind](alias=wanted.alias, **members)
    else:
        config = config.model_copy(update=members)
        config.alias = wanted.alias
    out = None if wanted.out is None else str(wanted.out)
    path = Path(CONFIGS[wanted.kind].save(config, out))
    if is_new and wanted.kind is Kind.EXPORTER:
        _append(path, EXPORT_HINT)
    return path


def _append(path: Path, text: str) -> None:
    from jumpstarter.config.document import write_secret

    write_secret(path, f"{path.read_text(encoding='utf-8')}{text}")


def choose(wanted: Wanted) -> str:
    """Make the config the current one if there is none; return what to say of it."""
    if wanted.out is not None:
        return ""
    if wanted.kind is Kind.CLIENT and (
        current_alias() is None or not ClientConfigV1Alpha1.exists(current_alias() or "")
    ):
        UserConfigV1Alpha1.load_or_create().use_client(wanted.alias)
        return f"'{wanted.alias}' is now the current client."
    if wanted.kind is Kind.ADMIN and AdminConfigV1Alpha1.current() is None:
        AdminConfigV1Alpha1.use(wanted.alias)
        return f"'{wanted.alias}' is now the current admin config."
    return ""


def save_and_tell(wanted: Wanted, credentials: Credentials, *, quiet: bool) -> Path:
    """Write a config, and say where it is unless that is not wanted.

    Raises:
        ClickExceptionRed: it can't be written; says how to get the token all the same.
    """
    try:
        path = save(wanted, credentials)
        chosen = choose(wanted)
    except Exception as error:
        from jumpstarter_cli_common.exceptions import describe_any

        failure = describe_any(error)
        raise ClickExceptionRed(
            f"The {wanted.kind} has a new token, but its config can't be written: {failure.message}",
            reason=failure.reason,
            hint=f"Once that is mended: jmp admin rotate {wanted.kind} {wanted.alias} --save",
        ) from error
    if not quiet:
        click.echo(f"{wanted.kind.title} configuration successfully saved to {path}", err=True)
        if chosen:
            click.echo(chosen, err=True)
    return path


def opt_drivers(function: Any) -> Any:
    """Add the options for what a client may import."""
    function = click.option(
        "--unsafe", is_flag=True, help="Client: import any class that an exporter names. Trusts all exporters."
    )(function)
    return click.option(
        "-a", "--allow", default=None, help="Client: classes that may be imported, as comma-separated globs."
    )(function)


def opt_out(function: Any) -> Any:
    """Add the option for the place of a config."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
        default=None,
        help="Write the config to this file.",
    )(function)


def patterns(allow: str | None, unsafe: bool, *, ask: bool) -> tuple[tuple[str, ...] | None, bool]:
    """Return which classes a client may import, and whether all; asks when neither was said and `ask` is set."""
    if allow is None and not unsafe and ask:
        unsafe = click.confirm("Allow unsafe driver client imports?", default=False, err=True)
        if not unsafe:
            allow = click.prompt(
                "Enter a comma-separated list of allowed driver packages (optional)",
                default="",
                show_default=False,
                err=True,
            )
    if allow is None:
        return None, unsafe
    return tuple(part.strip() for part in allow.split(",") if part.strip()), unsafe
