"""The way to a cluster: what a kubeconfig, a pod and an option say, and what is wrong with them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from .access import InCluster, Kubeconfig
from .exceptions import KubeconfigError

CONFIG: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "lab",
    "contexts": [
        {"name": "lab", "context": {"cluster": "one", "user": "me", "namespace": "boards"}},
        {"name": "other", "context": {"cluster": "two", "user": "me"}},
    ],
    "clusters": [
        {"name": "one", "cluster": {"server": "http://127.0.0.1:1/"}},
        {"name": "two", "cluster": {"server": "http://127.0.0.1:2"}},
    ],
    "users": [{"name": "me", "user": {"token": "secret-token"}}],
}


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def without(key: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in CONFIG.items() if name != key} | changes


async def test_the_current_context_is_the_default(tmp_path: Path) -> None:
    access = await Kubeconfig(str(write(tmp_path / "config", CONFIG))).read()

    assert (access.server, access.namespace, access.context) == ("http://127.0.0.1:1", "boards", "lab")
    assert access.authorization == "Bearer secret-token"
    assert "secret-token" not in repr(access)


async def test_a_context_and_a_namespace_can_be_chosen(tmp_path: Path) -> None:
    path = str(write(tmp_path / "config", CONFIG))

    assert (await Kubeconfig(path, "other").read()).server == "http://127.0.0.1:2"
    assert (await Kubeconfig(path, "other").read()).namespace == "default"
    assert (await Kubeconfig(path, "lab", "mine").read()).namespace == "mine"


async def test_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".kube" / "config", CONFIG)
    assert (await Kubeconfig().read()).context == "lab"

    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "own", {**CONFIG, "current-context": "other"})))
    assert (await Kubeconfig().read()).context == "other"


async def test_files_are_merged_like_a_path(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"current-context": "other", "contexts": CONFIG["contexts"]})
    second = write(tmp_path / "b", without("contexts"))

    assert (await Kubeconfig(f"{first}:{second}:{tmp_path / 'missing'}").read()).context == "other"


@pytest.mark.parametrize(
    ("document", "context", "message"),
    [
        (without("current-context"), None, "has no current-context.*lab, other"),
        (CONFIG, "third", r"has no context 'third'\. There is: lab, other"),
        (without("clusters"), None, "names the cluster 'one', which is not there"),
        (without("users", users=[]), None, "names the user 'me', which is not there"),
        (without("contexts", contexts="nonsense"), None, "contexts of the kubeconfig .* is not a list"),
        ("a: [", None, "no valid YAML"),
        ("- a\n", None, "does not hold a mapping"),
        (
            without("clusters", clusters=[{"name": "one", "cluster": {}}]),
            None,
            "the cluster 'one' of .* has no server URL",
        ),
        (
            without(
                "clusters",
                clusters=[{"name": "one", "cluster": {"server": "https://x", "certificate-authority": "/no"}}],
            ),
            None,
            "/no",
        ),
    ],
)
async def test_what_is_wrong_is_said(tmp_path: Path, document: Any, context: str | None, message: str) -> None:
    path = write(tmp_path / "config", document)

    with pytest.raises(KubeconfigError, match=message) as caught:
        await Kubeconfig(str(path), context).read()
    assert str(path) in str(caught.value)
    assert "secret-token" not in str(caught.value)


async def test_without_a_kubeconfig_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match=r"there is no kubeconfig: .*/none does not exist.*--kubeconfig"):
        await Kubeconfig(str(tmp_path / "none")).read()


async def test_a_login_plugin_is_run(tmp_path: Path) -> None:
    answer = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"from-plugin"}}'
    plugin = write(tmp_path / "plugin", f"#!/bin/sh\necho '{answer}'\n")
    plugin.chmod(stat.S_IRWXU)
    user = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    }
    path = write(tmp_path / "config", without("users", users=[{"name": "me", "user": user}]))

    assert (await Kubeconfig(str(path)).read()).authorization == "Bearer from-plugin"


async def test_a_pod_uses_its_service_account_and_reads_its_token_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import certifi

    assert not InCluster.present(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    write(tmp_path / "token", "first\n")
    write(tmp_path / "namespace", "boards")
    (tmp_path / "ca.crt").symlink_to(certifi.where())
    assert InCluster.present(tmp_path)

    access = await InCluster(tmp_path).read()
    assert (access.server, access.namespace, access.authorization) == (
        "https://[fd00::1]:443",
        "boards",
        "Bearer first",
    )

    write(tmp_path / "token", "second")
    assert (await InCluster(tmp_path).read()).authorization == "Bearer second"


async def test_a_pod_without_its_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    with pytest.raises(KubeconfigError, match=r"credentials in .* can't be read"):
        await InCluster(tmp_path).read()
