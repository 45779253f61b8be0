"""`jmp admin install` and `uninstall`: put a lab into a Kubernetes cluster, and take it away again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions
from jumpstarter_cli_common.opt import opt_context, opt_kubeconfig, opt_nointeractive

if TYPE_CHECKING:
    from jumpstarter_kubernetes.install import Mode
    from jumpstarter_kubernetes.installing import Change, Installation
    from jumpstarter_kubernetes.manifests import Values

MODES = ("nodeport", "ingress", "route", "gateway")
NAMESPACE = "jumpstarter-lab"
CHART = "oci://quay.io/jumpstarter-dev/helm/jumpstarter"
"""The chart of published releases, for --helm without --chart."""

KIND_PORTS = {"grpc": 8082, "router": 8083}
"""Ports of the machine that clusters made by kind have for the first two node ports."""

SIGNS = {"create": "+", "change": "~", "keep": "=", "delete": "-", "replace": "!", "conflict": "!"}
WORDS = {"create": "to make", "change": "to change", "keep": "as they are", "delete": "to delete"}

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("install", short_help="Put a lab into a Kubernetes cluster.")
@click.option("-n", "--namespace", help=f"Namespace of the lab; is made when it isn't there  [default: {NAMESPACE}]")
@click.option("-i", "--ip", help="Address of the cluster, for the default names  [default: that of this machine]")
@click.option("-b", "--basedomain", help="Domain of the endpoints  [default: jumpstarter.<ip>.nip.io]")
@click.option("-g", "--grpc-endpoint", metavar="HOST:PORT", help="What peers dial  [default: grpc.<basedomain>:...]")
@click.option(
    "-r",
    "--router-endpoint",
    metavar="HOST:PORT",
    help="What peers dial for streams; $(replica) stands for the number of a router  [default: in the base domain]",
)
@click.option("--mode", type=click.Choice(MODES), help="How peers reach the lab  [default: nodeport]")
@click.option("--nodeport", "mode", flag_value="nodeport", help="Same as --mode nodeport: ports of the nodes.")
@click.option("--ingress", "mode", flag_value="ingress", help="Same as --mode ingress: TLS passed through an ingress.")
@click.option("--route", "mode", flag_value="route", help="Same as --mode route: routes of OpenShift.")
@click.option("--ingress-class", help="Ingress class  [default: that of the cluster]")
@click.option("--gateway", metavar="NAMESPACE/NAME", help="The Gateway of --mode gateway.")
@click.option("--image", help="Image of the controllers and routers  [default: jumpstarter:<this version>]")
@click.option("--replicas", type=click.IntRange(1, 20), help="Number of controllers  [default: 2]")
@click.option("--routers", type=click.IntRange(1, 50), help="Number of routers  [default: 2; 1 in kind]")
@click.option("--metrics/--no-metrics", default=None, help="Serve metrics to Prometheus  [default: --metrics]")
@click.option(
    "--values-file", "-f", "values_files", multiple=True, type=_FILE, help="YAML of values; the last one wins."
)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("-o", "--output", type=click.Choice(["yaml"]), help="Only print the objects; no cluster is asked.")
@click.option("--force", is_flag=True, help="Take over what belongs to other tools, such as an operator.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until everything is ready.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds to wait.")
@click.option("--helm", help="Install a Helm chart instead, with this program.")
@click.option("-c", "--chart", help="The chart, if it is not the published one; goes with --helm, which is helm then.")
@click.option("--name", default="jumpstarter", show_default=True, help="Name of the Helm release.")
@click.option("-v", "--version", "chart_version", help="Version of the chart  [default: the newest that fits]")
@opt_kubeconfig
@opt_context
@handle_exceptions
def install(
    dry_run: bool,
    output: str | None,
    force: bool,
    wait: bool,
    timeout: float,
    helm: str | None,
    chart: str | None,
    name: str,
    chart_version: str | None,
    kubeconfig: str | None,
    context: str | None,
    values_files: tuple[Path, ...],
    **options: Any,
) -> None:
    """Put a lab into a Kubernetes cluster, or bring one that is there up to date.

    Kinds, rights, controllers, routers and the ways in are applied as this command describes them; what is as it should
    be stays as it is, and what an interrupted run has left out is made. Then it is waited until everything is ready.

    Where to begin: `jmp admin install --dry-run` shows what would change.
    """
    if helm or chart:
        _install_chart(options, helm or "helm", chart, name, chart_version, kubeconfig, context, values_files, dry_run)
        return
    if chart_version:
        raise click.UsageError("--version is that of a chart, and goes with --helm or --chart; see --image.")
    values = _values(options, values_files, kubeconfig, context)
    if output is not None:
        _print(values)
        return
    _run(values, kubeconfig, context, dry_run=dry_run, force=force, wait=wait, timeout=timeout)


@click.command("uninstall", short_help="Take a lab out of a Kubernetes cluster.")
@click.option("-n", "--namespace", default=NAMESPACE, show_default=True, help="Namespace of the lab.")
@click.option("--delete-data", is_flag=True, help="Delete all clients, exporters, leases, tokens and keys as well.")
@click.option("--delete-crds", is_flag=True, help="Delete the kinds as well.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds to wait.")
@click.option("--helm", help="Uninstall a Helm release instead, with this program.")
@click.option("--name", default="jumpstarter", show_default=True, help="Name of the Helm release.")
@opt_kubeconfig
@opt_context
@opt_nointeractive
@handle_exceptions
def uninstall(
    namespace: str,
    delete_data: bool,
    delete_crds: bool,
    yes: bool,
    timeout: float,
    helm: str | None,
    name: str,
    kubeconfig: str | None,
    context: str | None,
    nointeractive: bool,
) -> None:
    """Take a lab out of a Kubernetes cluster.

    What it knows stays, and is there again after the next `jmp admin install`: clients, exporters, leases, policies,
    the tokens and keys, and the kinds. --delete-data and --delete-crds delete these too.
    """
    if helm:
        if delete_data or delete_crds:
            raise click.UsageError("--delete-data and --delete-crds don't go with --helm.")
        _uninstall_chart(helm, name, namespace, kubeconfig, context)
        return
    import anyio
    from jumpstarter_kubernetes.cluster import Cluster
    from jumpstarter_kubernetes.installing import managed
    from jumpstarter_kubernetes.installing import uninstall as remove

    async def look() -> tuple[str, int]:
        async with Cluster.from_config(kubeconfig, context, namespace) as cluster:
            return cluster.server, len(await managed(cluster, namespace))

    async def work() -> None:
        async with Cluster.from_config(kubeconfig, context, namespace) as cluster:
            await remove(
                cluster, namespace, delete_data=delete_data, delete_crds=delete_crds, tell=_say, timeout=timeout
            )

    server, number = anyio.run(look)
    if not number and not delete_data and not delete_crds:
        click.echo(f"Nothing is installed in the namespace {namespace} of {server}.", err=True)
        return
    what = "the lab with all that it knows" if delete_data else "the lab, except for what it knows"
    if not yes:
        if nointeractive:
            raise click.UsageError("--nointeractive needs --yes, because this deletes something.")
        click.confirm(
            f"Delete {what}, {number} objects, from the namespace {namespace} of {server}?", abort=True, err=True
        )
    anyio.run(work)
    click.echo(f"Uninstalled {what} from the namespace {namespace}")


# -- values ----------------------------------------------------------------------------------------


def _values(options: dict[str, Any], files: tuple[Path, ...], kubeconfig: str | None, context: str | None) -> Values:
    """Return the values of the files and the options, which come first, and defaults for the rest."""
    from jumpstarter_kubernetes.manifests import Values
    from pydantic import ValidationError

    given = _read(files)
    names = {"grpc_endpoint": "endpoint"}
    for option, value in options.items():
        if value is not None and option not in ("ip", "basedomain"):
            given[_camel(names.get(option, option))] = value
    mode = given.get("mode", "nodeport")
    kind = mode == "nodeport" and _is_kind(kubeconfig, context)
    if kind:
        given.setdefault("routers", 1)
    if "endpoint" not in given or "routerEndpoint" not in given:
        base = options["basedomain"] or f"jumpstarter.{options['ip'] or _address()}.nip.io"
        for key, value in _endpoints(base, str(mode), kind).items():
            given.setdefault(key, value)
    try:
        return Values.model_validate(given)
    except ValidationError as error:
        raise ClickExceptionRed(_mistakes(error), reason="configuration") from None


def _endpoints(base: str, mode: str, kind: bool) -> dict[str, str]:
    from jumpstarter_kubernetes.manifests import GRPC_NODE_PORT, REPLICA, ROUTER_NODE_PORT

    if mode != "nodeport":
        return {"endpoint": f"grpc.{base}:443", "routerEndpoint": f"router-{REPLICA}.{base}:443"}
    grpc, router = (KIND_PORTS["grpc"], KIND_PORTS["router"]) if kind else (GRPC_NODE_PORT, ROUTER_NODE_PORT)
    return {"endpoint": f"grpc.{base}:{grpc}", "routerEndpoint": f"router.{base}:{router}"}


def _read(files: tuple[Path, ...]) -> dict[str, Any]:
    import yaml

    merged: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ClickExceptionRed(f"the values can't be read from {file}: {error}", reason="configuration") from None
        if content is not None and not isinstance(content, dict):
            raise ClickExceptionRed(f"{file} holds no values: a mapping is wanted", reason="configuration")
        merged |= content or {}
    return merged


def _mistakes(error: Any) -> str:
    found = []
    for mistake in error.errors():
        place = ".".join(str(part) for part in mistake["loc"])
        text = str(mistake["msg"]).removeprefix("Value error, ")
        found.append(f"{place}: {text}" if place else text)
    return "; ".join(found)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _is_kind(kubeconfig: str | None, context: str | None) -> bool:
    """Return whether the cluster is one that kind has made, as the name of the context says."""
    import anyio
    from jumpstarter_kubernetes.access import Kubeconfig
    from jumpstarter_kubernetes.exceptions import KubeconfigError

    try:
        name, _ = anyio.run(Kubeconfig(kubeconfig or "", context).place)
    except KubeconfigError:
        # Whoever connects is told; objects can be printed without one.
        return False
    return name.startswith("kind-")


def _address() -> str:
    from jumpstarter.common.ipaddr import get_ip_address

    address = get_ip_address()
    if address == "0.0.0.0":
        raise ClickExceptionRed(
            "this machine has no address from which names of the endpoints could be made",
            reason="configuration",
            hint="Give the address of the cluster with --ip, or a domain with --basedomain.",
        )
    return address


# -- doing it --------------------------------------------------------------------------------------


def _print(values: Values) -> None:
    import yaml
    from jumpstarter_kubernetes.manifests import crds, render

    click.echo(yaml.safe_dump_all([*crds(), *render(values)], sort_keys=False), nl=False)


def _run(
    values: Values,
    kubeconfig: str | None,
    context: str | None,
    *,
    dry_run: bool,
    force: bool,
    wait: bool,
    timeout: float,
) -> None:
    import anyio
    from jumpstarter_kubernetes.cluster import Cluster
    from jumpstarter_kubernetes.installing import Installation

    async def work() -> Installation:
        async with Cluster.from_config(kubeconfig, context, values.namespace) as cluster:
            installation = await Installation.fitting(cluster, values, force=force, tell=_say)
            _summary(installation.values, cluster.server)
            if dry_run:
                _show(await installation.plan())
            else:
                await installation.install(wait=wait, timeout=timeout)
            return installation

    installation = anyio.run(work)
    if dry_run:
        return
    ready = "is ready" if wait else "is on its way"
    where = "".join(f" --{key} {value}" for key, value in (("kubeconfig", kubeconfig), ("context", context)) if value)
    click.echo(f"The lab {ready} at {installation.values.endpoint}. An exporter and a client for it:")
    for account in ("exporter my-board --label board=demo", "client me --unsafe"):
        click.echo(f"  jmp admin create {account} --save -n {values.namespace}{where or ' --context CONTEXT'}")


def _summary(values: Values, server: str) -> None:
    routers = [values.router_at(number) for number in range(values.routers)]
    for name, text in (
        ("Cluster", server),
        ("Namespace", values.namespace),
        ("Image", values.image),
        ("Mode", values.mode),
        ("Controller", f"{values.endpoint} ({values.replicas} of them)"),
        ("Routers", ", ".join(routers)),
        ("Log-in", values.web_url),
    ):
        click.echo(f"{name + ':':12}{text}", err=True)


def _show(changes: list[Change]) -> None:
    """Print what would change: differences in full, of what is new the names."""
    for change in changes:
        if change.verb == "keep":
            continue
        click.echo(f"{SIGNS[change.verb]} {change}")
        if change.text:
            click.echo("\n".join(f"    {line}" for line in change.text.splitlines()))
    counts = {verb: sum(change.verb == verb for change in changes) for verb in WORDS}
    click.echo(", ".join(f"{count} {WORDS[verb]}" for verb, count in counts.items()))
    if any(change.verb in ("replace", "conflict") for change in changes):
        click.echo("What is marked with ! belongs to somebody else, and needs --force.")


def _say(line: str) -> None:
    click.echo(line, err=True)


# -- Helm ------------------------------------------------------------------------------------------


def _install_chart(
    options: dict[str, Any],
    helm: str,
    chart: str | None,
    name: str,
    version: str | None,
    kubeconfig: str | None,
    context: str | None,
    values_files: tuple[Path, ...],
    dry_run: bool,
) -> None:
    unfit = [
        key
        for key in ("ingress_class", "gateway", "image", "replicas", "routers", "metrics")
        if options[key] is not None
    ]
    if unfit or dry_run or options["mode"] == "gateway":
        raise click.UsageError(
            "With a Helm chart only the namespace, the endpoints, the mode (nodeport, ingress, route), the version and "
            "values files can be chosen."
        )
    import anyio
    from jumpstarter_kubernetes.install import helm_installed, install_helm_chart

    if not helm_installed(helm):
        raise ClickExceptionRed(
            f"{helm} is not installed",
            reason="missing-tool",
            hint="Install Helm, or leave out --helm and --chart: then no further program is needed.",
        )
    namespace: str = options["namespace"] or NAMESPACE
    mode: Mode = options["mode"] or "nodeport"
    ip = options["ip"] or ("" if options["basedomain"] else _address())
    base = options["basedomain"] or f"jumpstarter.{ip}.nip.io"
    grpc = options["grpc_endpoint"] or f"grpc.{base}:8082"
    router = options["router_endpoint"] or f"router.{base}:8083"
    if version is None and chart is None:
        version = anyio.run(_chart_version)
    for key, text in (
        ("Chart", chart or CHART),
        ("Version", version or "that of the chart"),
        ("Namespace", namespace),
        ("Base domain", base),
        ("Controller", grpc),
        ("Router", router),
        ("Mode", mode),
    ):
        click.echo(f"{key + ':':13}{text}", err=True)
    # Its own output and errors are shown as they come.
    sys.stdout.flush()
    anyio.run(
        install_helm_chart,
        *(chart or CHART, name, namespace, base, grpc, router, mode, version, kubeconfig, context, helm, values_files),
    )
    click.echo(f"Installed the release {name} in the namespace {namespace}")


async def _chart_version() -> str:
    from importlib.metadata import version

    from jumpstarter_kubernetes.controller import get_latest_compatible_controller_version

    return await get_latest_compatible_controller_version(version("jumpstarter-kubernetes"))


def _uninstall_chart(helm: str, name: str, namespace: str, kubeconfig: str | None, context: str | None) -> None:
    import subprocess

    command = [helm, "uninstall", name, "--namespace", namespace, "--wait"]
    for option, value in (("--kubeconfig", kubeconfig), ("--kube-context", context)):
        if value:
            command += [option, value]
    try:
        done = subprocess.run(command, check=False)
    except OSError as error:
        raise ClickExceptionRed(f"{helm} can't be run: {error.strerror}", reason="missing-tool") from None
    if done.returncode:
        raise ClickExceptionRed(f"{helm} could not uninstall the release {name} (exit status {done.returncode})")
