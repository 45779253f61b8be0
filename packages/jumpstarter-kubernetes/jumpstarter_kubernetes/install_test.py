"""Installing by Helm: what it is called with, and what is told when it can't be called or fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from .exceptions import JumpstarterKubernetesError
from .install import helm_installed, install_helm_chart

ARGUMENTS: dict[str, Any] = {
    "chart": "./chart",
    "name": "lab",
    "namespace": "lab-ns",
    "basedomain": "lab.example.com",
    "grpc_endpoint": "grpc.lab.example.com:8082",
    "router_endpoint": "[::1]:8083",
    "mode": "ingress",
    "version": "1.2.3",
    "kubeconfig": "/tmp/config",
    "context": "kind",
}


def program(folder: Path, body: str) -> Path:
    """Make a program that notes its arguments in a file."""
    path = folder / "helm"
    note = f"import json, sys; json.dump(sys.argv[1:], open({str(folder / 'arguments')!r}, 'w'))"
    path.write_text(f"#!{sys.executable}\n{note}\n{body}\n")
    path.chmod(0o755)
    return path


async def test_helm_is_told_what_to_install(tmp_path: Path) -> None:
    helm = program(tmp_path, "")
    await install_helm_chart(**ARGUMENTS, helm=str(helm), values_files=["more.yaml"])
    said = json.loads((tmp_path / "arguments").read_text())
    assert said[:8] == [
        "upgrade",
        "lab",
        "--install",
        "./chart",
        "--create-namespace",
        "--namespace",
        "lab-ns",
        "--set",
    ]
    values = {said[place + 1] for place, word in enumerate(said) if word == "--set"}
    assert "global.baseDomain=lab.example.com" in values
    assert "jumpstarter-controller.grpc.mode=ingress" in values
    assert "jumpstarter-controller.grpc.nodeport.enabled=false" in values
    assert "jumpstarter-controller.grpc.routerEndpoint=[::1]:8083" in values
    rest = said[said.index("--values") :]
    assert rest == [
        *("--values", "more.yaml", "--version", "1.2.3", "--kubeconfig", "/tmp/config", "--kube-context", "kind"),
        "--wait",
    ]


async def test_a_failure_of_helm_is_told(tmp_path: Path) -> None:
    helm = program(tmp_path, "sys.stderr.write('Error: chart not found\\n'); sys.exit(3)")
    with pytest.raises(JumpstarterKubernetesError, match=r"exit status 3\): Error: chart not found"):
        await install_helm_chart(**ARGUMENTS, helm=str(helm))


async def test_missing_helm_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "helm")
    assert not helm_installed(missing)
    with pytest.raises(JumpstarterKubernetesError, match=r"is not installed\. Install Helm"):
        await install_helm_chart(**ARGUMENTS, helm=missing)
