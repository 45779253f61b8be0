"""`jmp controller` and `jmp router`: the server of a lab, and routers on other machines."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import opt_log_format

if TYPE_CHECKING:
    from jumpstarter.config.admin import AdminConfigV1Alpha1
    from jumpstarter.config.router import RouterConfigV1Alpha1

    from .cluster.member import Member
    from .config_file import ControllerConfig
    from .server import LabServer
    from .store.base import Store

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)

opt_config = click.option(
    "--config", "config_path", type=_FILE, envvar="JMP_CONTROLLER_CONFIG", help="Config file; its keys are documented."
)
opt_data = click.option(
    "--data", type=_FOLDER, envvar="JMP_CONTROLLER_DATA", help="Folder of the lab  [default: in your home]"
)


@click.group(short_help="Run the server of a lab.")
def controller() -> None:
    """Run the server of a lab: controller, router and accounts in one process."""


@controller.command("run", short_help="Serve a lab until stopped.")
@opt_config
@opt_data
@click.option("--store", type=click.Choice(["sqlite", "kubernetes"]), help="Where the lab is kept  [default: sqlite]")
@click.option("--kubeconfig", type=_FILE, help="Of the cluster of a lab that is kept in one.")
@click.option("--context", help="Of the kubeconfig  [default: its current one]")
@click.option("-n", "--namespace", help="Of the lab's objects in the cluster  [default: that of the context]")
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on  [default: 127.0.0.1:8082]")
@click.option("--endpoint", metavar="HOST:PORT", help="What peers are told to dial  [default: the address]")
@click.option(
    "--router-listen", metavar="HOST:PORT", help="Address of the router, `shared` or `none`  [default: the next port]"
)
@click.option("--router-endpoint", metavar="HOST:PORT", help="What peers are told to dial for streams.")
@click.option("--web-listen", metavar="HOST:PORT", help="Address of REST, login and dashboard; empty for none.")
@click.option("--web-endpoint", metavar="URL", help="What people are told to open  [default: the address]")
@click.option("--metrics-listen", metavar="HOST:PORT", help="Address of the metrics, in plain text; empty for none.")
@click.option("--tls-cert", type=_FILE, help="Own certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, help="Its private key, PEM.")
@click.option("--tls-ca", type=_FILE, help="What peers have to trust, if it is not known to their systems, PEM.")
@opt_log_format
@handle_exceptions
def run(
    config_path: Path | None,
    data: Path | None,
    store: str | None,
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    **addresses: str | None,
) -> None:
    """Serve a lab until stopped by SIGTERM or Ctrl-C.

    The first start makes a folder with all that is kept: the store, a certificate authority and keys. It also makes an
    admin account for you, which `jmp admin` uses.

    Only this machine can connect, unless --listen says otherwise:

        jmp controller run --listen 0.0.0.0:8082 --endpoint lab.example.com:8082

    With --store kubernetes the lab is kept in a cluster, into which `jmp admin install` puts all that it takes. There
    any number of controllers may serve the same lab.

    `jmp controller config --example` prints a config file with all that can be set.
    """
    config = _config(config_path, data)
    config = config.model_copy(update=_changes(config, addresses))
    config = config.model_copy(update=_cluster_changes(config, store, kubeconfig, context, namespace))
    if tls_cert or tls_key or tls_ca:
        config = config.model_copy(update={"tls": _own_tls(tls_cert, tls_key, tls_ca)})

    async def serve() -> None:
        from .running import run_until_stopped

        await run_until_stopped(_server(config), config_path)

    _check(config, uses_folder=config.store == "sqlite")
    _run(serve)


@controller.command("config", short_help="Check a config, or print an example of one.")
@opt_config
@opt_data
@click.option("--example", is_flag=True, help="Print a config file with everything that can be said, and comments.")
@handle_exceptions
def show_config(config_path: Path | None, data: Path | None, example: bool) -> None:
    """Check the config, and print what is in effect, defaults included.

    To begin a config file: jmp controller config --example > lab.yaml
    """
    if example:
        from .config_example import EXAMPLE

        click.echo(EXAMPLE, nl=False)
        return
    import yaml

    config = _config(config_path, data)
    _check(config, serves=False, uses_folder=False)
    values = config.model_copy(update={"data": _folder(config)}).model_dump(mode="json", by_alias=True)
    click.echo(yaml.safe_dump(values, indent=2, sort_keys=False), nl=False)


@controller.command("reset-admin", short_help="Make or repair an admin account of a stopped lab.")
@opt_config
@opt_data
@click.option("--name", help="Of the account  [default: your user name]")
@click.option("--alias", default="", help="Of the config that is written  [default: lab]")
@handle_exceptions
def reset_admin(config_path: Path | None, data: Path | None, name: str | None, alias: str) -> None:
    """Make an admin account, or give it a new token, for when nobody can administer the lab any more.

    The server must not run meanwhile. Whoever may write to its folder may do this.
    """
    from .config_file import SHARED
    from .first_start import admin_name, known_endpoint, make_admin

    config = _config(config_path, data)
    if not _folder(config).is_dir():
        raise _no_lab(config)
    # Nobody is served meanwhile; the config says what admins dial when it runs.
    quiet = {
        "endpoint": config.endpoint or known_endpoint(_folder(config)) or config.listen,
        "listen": "127.0.0.1:0",
        "router": config.router.model_copy(update={"listen": SHARED}),
        "web": config.web.model_copy(update={"listen": ""}),
        "metrics": config.metrics.model_copy(update={"listen": ""}),
    }

    async def reset() -> AdminConfigV1Alpha1:
        async with _server(config.model_copy(update=quiet)) as server:
            return await make_admin(server, name or admin_name(), alias)

    _check(config, serves=False)
    saved = _run(reset)
    click.echo(f"Admin '{saved.metadata.name}' has a new token, in {saved.path}")


@controller.command("backup", short_help="Copy the store of a lab, also while it runs.")
@opt_config
@opt_data
@click.argument("file", type=_FILE)
@handle_exceptions
def backup_store(config_path: Path | None, data: Path | None, file: Path) -> None:
    """Copy the store of a lab to FILE, as it is at one moment, and read the copy back whole.

    The lab may run meanwhile. The copy holds its keys: keep it as you keep them.
    """
    from .startup import told_to_users
    from .store.sqlite_backup import backup

    with told_to_users():
        backup(_store_file(_config(config_path, data)), file)
    click.echo(f"{file} is a whole copy of the store")


@controller.command("restore", short_help="Put a copy in the place of the store of a stopped lab.")
@opt_config
@opt_data
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@handle_exceptions
def restore_store(config_path: Path | None, data: Path | None, file: Path) -> None:
    """Put FILE, which `jmp controller backup` or the lab itself made, in the place of the store of a lab.

    The server must not run meanwhile. What is there is moved aside, not deleted. Leases that were begun since FILE was
    made are forgotten; exporters and clients come back by themselves.
    """
    from .startup import told_to_users
    from .store.sqlite_backup import restore

    with told_to_users():
        aside = restore(file, _store_file(_config(config_path, data), made=False))
    for path in aside:
        click.echo(f"The former file is {path}")
    click.echo(f"The store is that of {file} now; start the lab with: jmp controller run")


def _store_file(config: ControllerConfig, *, made: bool = True) -> Path:
    """Return where the store is.

    Args:
        made: whether there has to be one.
    """
    from .server import STORE_FILE

    file = _folder(config) / STORE_FILE
    if made and not file.exists():
        raise _no_lab(config)
    return file


def _no_lab(config: ControllerConfig) -> ClickExceptionRed:
    return ClickExceptionRed(
        f"there is no lab in {_folder(config)}",
        reason="file-not-found",
        hint="Say where it is with --data, or start one with: jmp controller run",
    )


def _check(config: ControllerConfig, *, serves: bool = True, uses_folder: bool = True) -> None:
    from .startup import check, told_to_users

    with told_to_users():
        check(config, _folder(config) if uses_folder else None, serves=serves)


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run something on an event loop, and tell what the store can't do."""
    import anyio

    from .startup import told_to_users

    with told_to_users():
        return anyio.run(work)


def _config(path: Path | None, data: Path | None) -> ControllerConfig:
    from .config_file import ControllerConfig, read_config

    config = ControllerConfig() if path is None else read_config(path)
    return config if data is None else config.model_copy(update={"data": data})


def _changes(config: ControllerConfig, addresses: dict[str, str | None]) -> dict[str, Any]:
    """Return what the options change of the config."""
    given = {name: value for name, value in addresses.items() if value is not None}
    changes: dict[str, Any] = {name: given[name] for name in ("listen", "endpoint") if name in given}
    for part in ("router", "web", "metrics"):
        said = {member: given[f"{part}_{member}"] for member in ("listen", "endpoint") if f"{part}_{member}" in given}
        if said:
            changes[part] = getattr(config, part).model_copy(update=said)
    return changes


def _cluster_changes(
    config: ControllerConfig, store: str | None, kubeconfig: Path | None, context: str | None, namespace: str | None
) -> dict[str, Any]:
    """Return what the options about a cluster change of the config."""
    said = {
        name: value
        for name, value in (("kubeconfig", kubeconfig), ("context", context), ("namespace", namespace))
        if value is not None
    }
    changes: dict[str, Any] = {"store": store} if store else {}
    if said:
        if changes.get("store", config.store) != "kubernetes":
            raise click.UsageError("--kubeconfig, --context and --namespace go with --store kubernetes.")
        changes["kubernetes"] = config.kubernetes.model_copy(update=said)
    return changes


def _own_tls(certificate: Path | None, key: Path | None, ca: Path | None) -> Any:
    from .config_file import OwnTLS

    if certificate is None or key is None:
        raise click.UsageError("--tls-cert and --tls-key belong together, and --tls-ca to both.")
    return OwnTLS(certificate=certificate, key=key, ca=ca)


def _folder(config: ControllerConfig) -> Path:
    from .config_file import default_folder

    return config.data or default_folder()


def _cluster(config: ControllerConfig) -> tuple[Store | None, Member | None]:
    """Return the store in a cluster, and what makes the controller one of several; nothing for other stores."""
    if config.store != "kubernetes":
        return None, None
    try:
        from jumpstarter_kubernetes.cluster import Cluster

        from .cluster.member import Member
        from .listening import join_address, split_address
        from .store.kubernetes import KubernetesStore
    except ImportError as error:
        raise ClickExceptionRed(
            f"what a store in Kubernetes takes is not installed: {error}",
            reason="missing-package",
            hint="Install it with: pip install 'jumpstarter-controller[kubernetes]'",
        ) from error
    where = config.kubernetes
    cluster = Cluster.from_config(where.kubeconfig, where.context or None, where.namespace or None)
    listen = where.peer_listen or join_address(split_address(config.listen, "listen")[0], 0)
    member = Member(cluster, listen=listen, endpoint=where.peer_endpoint, routers=where.routers)
    return KubernetesStore(cluster, own_namespace=True), member


def _server(config: ControllerConfig) -> LabServer:
    from .config_file import NO_ROUTER, router_address
    from .router.pool import StaticRouter
    from .server import Endpoints, LabServer, OwnCertificate

    own = config.tls
    store, member = _cluster(config)
    return LabServer(
        _folder(config),
        config.settings(),
        store=store,
        member=member,
        endpoints=Endpoints(
            listen=config.listen,
            endpoint=config.endpoint,
            router_listen=router_address(config.listen, config.router.listen),
            router_endpoint=config.router.endpoint,
            router=config.router.listen != NO_ROUTER,
            names=config.names,
            web_listen=config.web.listen,
            web_endpoint=config.web.endpoint,
            metrics_listen=config.metrics.listen,
        ),
        own_certificate=OwnCertificate(certificate=own.certificate, key=own.key, ca=own.ca) if own else None,
        static_routers=[StaticRouter(endpoint=other.endpoint, labels=other.labels) for other in config.routers],
        grace=config.drain,
    )


# -- routers -------------------------------------------------------------------------------------


@click.group(short_help="Run a router of a lab.")
def router() -> None:
    """Run a router of a lab on a machine of its own."""


@router.command("run", short_help="Relay streams until stopped.")
@click.argument("alias", default="default")
@click.option("--config", "config_path", type=_FILE, help="Config file, in place of ALIAS.")
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on.")
@click.option("--advertise", metavar="HOST:PORT", help="Where peers reach this router.")
@opt_log_format
@handle_exceptions
def run_router(alias: str, config_path: Path | None, listen: str | None, advertise: str | None) -> None:
    """Join a lab as the router ALIAS, and relay streams until stopped by SIGTERM or Ctrl-C.

    An admin makes the config with: jmp admin create router NAME --save. Open streams get a time for ending.
    """
    from jumpstarter.config.router import RouterConfigV1Alpha1

    config = RouterConfigV1Alpha1.from_file(config_path) if config_path else RouterConfigV1Alpha1.load(alias)
    given = {"listen": listen, "advertise": advertise}
    changed = config.model_copy(update={name: value for name, value in given.items() if value is not None})
    _run(lambda: _relay(changed))


async def _relay(config: RouterConfigV1Alpha1) -> None:
    from .clock import SystemClock
    from .identity.certificates import Files, ServerCertificates
    from .listening import split_address
    from .router.remote import RemoteSettings, run_router

    certificates = None
    if config.certificate is not None:
        host = split_address(config.advertise or config.listen)[0]
        own = config.certificate
        certificates = ServerCertificates(Files(own.certificate, own.key, [host], SystemClock()))
    settings = RemoteSettings(
        controller=config.endpoint,
        tls=config.tls,
        metadata=config.metadata,
        token=config.read_token,
        endpoint=config.advertise,
        listen=config.listen,
        labels=config.labels,
        others=tuple(config.controllers),
        every_address=config.every_address,
        drain=config.drain,
    )
    await run_router(settings, certificates)
