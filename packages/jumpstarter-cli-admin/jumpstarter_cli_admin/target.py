"""The options that choose a server and a namespace, and running something there."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from jumpstarter.common.env import JMP_ADMIN, JMP_ADMIN_CONFIG
from jumpstarter_cli_common.exceptions import ClickExceptionRed

if TYPE_CHECKING:
    from jumpstarter.config.admin import AdminConfigV1Alpha1

    from .backend import Backend, OpenBackend

T = TypeVar("T")

NO_CONFIG_HINT = (
    "`jmp controller run` makes one for who starts a lab. Another admin makes one for you with `jmp admin create admin "
    "NAME --out FILE`; take it over with `jmp admin config import FILE`."
)


class Target:
    """A server that commands work with, and the namespace that they work in.

    Args:
        namespace: None for the one of the config.
    """

    def __init__(
        self,
        *,
        alias: str | None = None,
        path: Path | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
        namespace: str | None = None,
    ) -> None:
        if kubeconfig is not None or context is not None:
            if alias is not None or path is not None:
                raise click.UsageError("--admin and --admin-config name a lab, --kubeconfig and --context a cluster.")
            default, self._connect = _kubernetes(kubeconfig, context)
        elif alias is None and path is None and _only_a_cluster():
            default, self._connect = _kubernetes(None, None)
        else:
            config = load_config(alias, path)
            default, self._connect = config.metadata.namespace or "default", lambda: _lab(config)
        self.namespace = namespace or default

    def run(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """Connect, do something, and return its result."""
        import anyio

        opening = self._connect()

        async def connected() -> T:
            async with opening as backend:
                return await work(backend)

        return anyio.run(connected)


def load_config(alias: str | None, path: Path | None) -> AdminConfigV1Alpha1:
    """Return the config that is named, else the current one.

    Raises:
        ClickExceptionRed: there is none.
        FileNotFoundError, ConfigurationError: it isn't there, or has mistakes.
    """
    from jumpstarter.config.admin import AdminConfigV1Alpha1

    if alias is not None and path is not None:
        raise click.UsageError("Only one config can be used, but --admin and --admin-config are given.")
    if path is not None:
        return AdminConfigV1Alpha1.from_file(path)
    chosen = alias or AdminConfigV1Alpha1.current()
    if chosen is not None:
        return AdminConfigV1Alpha1.load(chosen)
    known = AdminConfigV1Alpha1.aliases()
    hint = f"Choose one with `jmp admin config use ALIAS`: {', '.join(known)}." if known else NO_CONFIG_HINT
    raise ClickExceptionRed("No admin config is chosen.", reason="configuration", hint=hint)


def _lab(config: AdminConfigV1Alpha1) -> OpenBackend:
    from .lab import open_lab

    return open_lab(config)


def _only_a_cluster() -> bool:
    """Tell whether this machine knows no lab, but a cluster: then that is meant, as in published releases."""
    from jumpstarter.config.admin import AdminConfigV1Alpha1

    if AdminConfigV1Alpha1.aliases():
        return False
    given = os.environ.get("KUBECONFIG") or "~/.kube/config"
    known = any(Path(part).expanduser().exists() for part in given.split(os.pathsep) if part)
    return known or os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token")


def _kubernetes(kubeconfig: str | None, context: str | None) -> tuple[str, Callable[[], OpenBackend]]:
    from importlib.metadata import entry_points

    from .backend import ENTRY_POINTS

    entry = next(iter(entry_points(group=ENTRY_POINTS, name="kubernetes")), None)
    if entry is not None:
        open_backend: Callable[[str | None, str | None], tuple[str, OpenBackend]] = entry.load()
        return open_backend(kubeconfig, context)[0], lambda: open_backend(kubeconfig, context)[1]
    raise ClickExceptionRed(
        "--kubeconfig and --context need support for Kubernetes, which is not installed.",
        reason="missing-package",
        hint="Install jumpstarter-cli-admin anew, or leave these options out: commands go to a lab then, see "
        "`jmp admin config list`.",
    )


def complete_admins(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete aliases of admin configs."""
    from jumpstarter_cli_common.aliases import aliases

    return [alias for alias in aliases("admins") if alias.startswith(incomplete)]


def opt_config(function: Any) -> Any:
    """Add the options that choose an admin config."""
    for option in (
        click.option(
            "--admin-config",
            "admin_config",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar=JMP_ADMIN_CONFIG,
            metavar="FILE",
            help="Path of an admin config file.",
        ),
        click.option(
            "--admin",
            "admin_alias",
            envvar=JMP_ADMIN,
            metavar="ALIAS",
            shell_complete=complete_admins,
            help="Alias of an admin config  [default: the current one]",
        ),
    ):
        function = option(function)
    return function


def opt_target(function: Any) -> Any:
    """Add the options that choose server and namespace, and pass a `Target` as keyword `target`."""

    @wraps(function)
    def wrapper(
        *args: Any,
        admin_alias: str | None,
        admin_config: Path | None,
        kubeconfig: str | None,
        context: str | None,
        namespace: str | None,
        **kwargs: Any,
    ) -> Any:
        # What is said for this command beats what the environment says for all.
        source = click.get_current_context().get_parameter_source
        environment = click.core.ParameterSource.ENVIRONMENT
        if source("admin_alias") == environment and (admin_config is not None or kubeconfig or context):
            admin_alias = None
        if source("admin_config") == environment and (admin_alias is not None or kubeconfig or context):
            admin_config = None
        target = Target(
            alias=admin_alias, path=admin_config, kubeconfig=kubeconfig, context=context, namespace=namespace
        )
        return function(*args, target=target, **kwargs)

    wrapper = click.option("--context", default=None, help="Context of the kubeconfig, for a lab in Kubernetes.")(
        wrapper
    )
    wrapper = click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        help="Path of a kubeconfig file, for a lab in Kubernetes.",
    )(wrapper)
    wrapper = opt_config(wrapper)
    return click.option(
        "-n",
        "--namespace",
        default=None,
        help="Namespace to work in  [default: that of the admin config or context]",
    )(wrapper)


opt_all_namespaces = click.option("-A", "--all-namespaces", is_flag=True, help="List what all namespaces have.")
