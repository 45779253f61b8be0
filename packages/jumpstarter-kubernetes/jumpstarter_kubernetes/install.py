"""Installing a chart by Helm."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .exceptions import JumpstarterKubernetesError

Mode = Literal["nodeport", "ingress", "route"]
"""How peers reach the services: by ports of the nodes, an ingress controller, or routes of OpenShift."""


def helm_installed(name: str) -> bool:
    """Return whether a program of that name can be run."""
    return shutil.which(name) is not None


async def install_helm_chart(
    chart: str,
    name: str,
    namespace: str,
    basedomain: str,
    grpc_endpoint: str,
    router_endpoint: str,
    mode: Mode,
    version: str | None,
    kubeconfig: str | None,
    context: str | None,
    helm: str | None = "helm",
    values_files: Sequence[str | Path] = (),
) -> None:
    """Install a chart, or bring what it installed up to date, and wait until it runs; Helm says how that goes.

    Args:
        chart: folder, file or URL.
        name: of the release.
        namespace: is made when it isn't there.
        basedomain: under which the services have their names.
        grpc_endpoint: `host:port` at which peers reach the controller.
        router_endpoint: `host:port` at which peers reach the router.
        version: of the chart; None for the newest one, and for charts that aren't from a registry.
        kubeconfig: None for Helm's own default.
        context: None for the current one.
        helm: the program.
        values_files: further values, of which the last ones win.

    Raises:
        JumpstarterKubernetesError: Helm isn't installed, or failed; says what it said last.
    """
    from anyio import run_process

    program = helm or "helm"
    if not helm_installed(program):
        raise JumpstarterKubernetesError(
            f"{program} is not installed. Install Helm (https://helm.sh/docs/intro/install), or name it with --helm"
        )
    values = {
        "global.baseDomain": basedomain,
        "jumpstarter-controller.grpc.endpoint": grpc_endpoint,
        "jumpstarter-controller.grpc.routerEndpoint": router_endpoint,
        "global.metrics.enabled": "false",
        "jumpstarter-controller.grpc.nodeport.enabled": "true" if mode == "nodeport" else "false",
        "jumpstarter-controller.grpc.mode": mode,
    }
    command = [program, "upgrade", name, "--install", chart, "--create-namespace", "--namespace", namespace]
    for key, value in values.items():
        command += ["--set", f"{key}={_quoted(value)}"]
    for file in values_files:
        command += ["--values", str(file)]
    for option, text in (("--version", version), ("--kubeconfig", kubeconfig), ("--kube-context", context)):
        if text:
            command += [option, text]
    done = await run_process([*command, "--wait"], check=False, stdout=None)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise JumpstarterKubernetesError(
            f"{program} could not install {chart} as {name!r} in namespace {namespace!r} "
            f"(exit status {done.returncode}): {said[-1] if said else 'it said nothing'}"
        )


def _quoted(value: str) -> str:
    """Return a value for `--set`, where a comma would begin the next one."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
