"""The API classes against an API server: a controller of the published kind works there, or none."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.published import CA, ENDPOINT
from kubernetes_asyncio.client import ApiException

from . import clients, exporters
from .clients import ClientsV1Alpha1Api
from .exceptions import JumpstarterKubernetesError, KubeconfigError
from .exporters import ExportersV1Alpha1Api
from .leases import LeasesV1Alpha1Api
from .policies import (
    ExporterAccessPoliciesV1Alpha1Api,
    V1Alpha1ExporterAccessPolicySpec,
    V1Alpha1Policy,
)
from .resources import LEASES
from .util import AbstractAsyncCustomObjectApi


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and give up soon."""
    for module, kind in ((clients, "CLIENT"), (exporters, "EXPORTER")):
        monkeypatch.setattr(module, f"CREATE_{kind}_DELAY", 0.02)
        monkeypatch.setattr(module, f"CREATE_{kind}_COUNT", 50)


@pytest.mark.usefixtures("controller", "hurried")
async def test_a_client_is_made_with_a_config(api: Any, namespace: str) -> None:
    async with api(ClientsV1Alpha1Api) as found:
        made = await found.create_client("alice", {"team": "a"}, "dex:alice")
        assert made.status.credential.name == "alice-client"
        assert made.metadata.labels == {"team": "a"}
        config = await found.get_client_config("alice", allow=["a.*"])
    assert (config.alias, config.endpoint, config.metadata.namespace) == ("alice", ENDPOINT, namespace)
    assert config.token.startswith("token-")
    assert base64.b64decode(config.tls.ca).decode() == CA
    assert (config.drivers.allow, config.drivers.unsafe) == (["a.*"], False)


@pytest.mark.usefixtures("controller", "hurried")
async def test_a_client_without_labels_keeps_its_name(api: Any) -> None:
    async with api(ClientsV1Alpha1Api) as found:
        assert (await found.create_client("alice")).metadata.name == "alice"


@pytest.mark.usefixtures("controller", "hurried")
async def test_the_token_of_a_client_is_replaced(api: Any) -> None:
    async with api(ClientsV1Alpha1Api) as found:
        await found.create_client("alice")
        before = (await found.get_client_config("alice", [])).token
        rotated = await found.rotate_client_token("alice")
        assert rotated != before
        assert (await found.get_client_config("alice", [])).token == rotated


@pytest.mark.usefixtures("controller", "hurried")
async def test_an_exporter_is_made_with_a_config(api: Any) -> None:
    async with api(ExportersV1Alpha1Api) as found:
        made = await found.create_exporter("board", {"board": "x"})
        assert made.status.endpoint == ENDPOINT
        config = await found.get_exporter_config("board")
        assert config.token.startswith("token-")
        assert dict(config.export) == {}
        await found.delete_exporter("board")
        with pytest.raises(ApiException, match="404"):
            await found.get_exporter("board")


@pytest.mark.parametrize("kind", ["client", "exporter"])
async def test_a_cluster_without_controller_is_told_in_time(
    kind: str, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (clients, exporters):
        name = module.__name__.rpartition(".")[2][:-1].upper()
        monkeypatch.setattr(module, f"CREATE_{name}_DELAY", 0.01)
        monkeypatch.setattr(module, f"CREATE_{name}_COUNT", 3)
    async with api(ClientsV1Alpha1Api if kind == "client" else ExportersV1Alpha1Api) as found:
        with pytest.raises(JumpstarterKubernetesError, match=r"got no credential within .* Check that a controller"):
            await getattr(found, f"create_{kind}")("alice")
        # It is there all the same, and lists with fresh objects in them can be read.
        assert len((await getattr(found, f"list_{kind}s")()).items) == 1
        arguments = (["a"],) if kind == "client" else ()
        with pytest.raises(JumpstarterKubernetesError, match="no credential secret"):
            await getattr(found, f"get_{kind}_config")("alice", *arguments)


async def test_a_client_without_credential_has_no_token_to_rotate(api: Any, kube: Kube, namespace: str) -> None:
    async with kube.cluster(namespace) as cluster:
        from .resources import CLIENTS

        await cluster.create(CLIENTS, {"metadata": {"name": "alice"}})
    async with api(ClientsV1Alpha1Api) as found:
        with pytest.raises(JumpstarterKubernetesError, match="has no credential secret"):
            await found.rotate_client_token("alice")


@pytest.mark.usefixtures("controller", "hurried")
async def test_changes_of_clients_are_told(api: Any) -> None:
    async with api(ClientsV1Alpha1Api) as found:
        await found.create_client("alice", {"team": "a"})
        seen = []
        with anyio.fail_after(20):
            async for event, client in found.watch_clients():
                seen.append((event, (client.metadata.labels or {}).get("team")))
                if event == "ADDED":
                    await found.patch_client("alice", {"metadata": {"labels": {"team": "b"}}})
                elif event == "MODIFIED":
                    await found.delete_client("alice")
                else:
                    break
        assert seen[0] == ("ADDED", "a")
        assert ("MODIFIED", "b") in seen
        assert seen[-1][0] == "DELETED"


@pytest.mark.usefixtures("controller")
async def test_leases_are_read_and_released(api: Any, kube: Kube, namespace: str) -> None:
    spec = {"clientRef": {"name": "alice"}, "duration": "1h0m0s", "selector": {"matchLabels": {"board": "x"}}}
    async with kube.cluster(namespace) as cluster:
        await cluster.create(LEASES, {"metadata": {"name": "one"}, "spec": spec})
    async with api(LeasesV1Alpha1Api) as found:
        assert [lease.metadata.name for lease in (await found.list_leases()).items] == ["one"]
        await found.release_lease("one")
        with anyio.fail_after(20):
            async for _, lease in found.watch_leases():
                if lease.status.ended:
                    break
        assert (await found.get_lease("one")).get_reason() == "Released"
        await found.delete_lease("one")


async def test_policies_are_made_changed_and_deleted(api: Any) -> None:
    async with api(ExporterAccessPoliciesV1Alpha1Api) as found:
        spec = V1Alpha1ExporterAccessPolicySpec(policies=[V1Alpha1Policy(priority=3)])
        assert (await found.create_policy("boards", spec)).spec == spec
        changed = await found.patch_policy("boards", {"spec": {"policies": []}})
        assert changed.spec.policies == []
        assert [policy.metadata.name for policy in (await found.list_policies()).items] == ["boards"]
        async for event, policy in found.watch_policies():
            assert (event, policy.metadata.name) == ("ADDED", "boards")
            break
        await found.delete_policy("boards")
        with pytest.raises(ApiException, match="404"):
            await found.get_policy("boards")


async def test_without_certificate_authority_peers_trust_their_systems(api: Any) -> None:
    async with api(ClientsV1Alpha1Api) as found:
        assert await found.get_ca_bundle() == ""


async def test_an_unknown_context_is_told(kube: Kube, tmp_path: Path) -> None:
    config = kube.kubeconfig(tmp_path / "kubeconfig")
    with pytest.raises(KubeconfigError, match=r"has no context 'other'\. There is: test"):
        async with ClientsV1Alpha1Api("default", str(config), "other"):
            pass


def test_making_an_api_reads_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    for kind in (ClientsV1Alpha1Api, ExportersV1Alpha1Api, LeasesV1Alpha1Api):
        assert isinstance(kind(namespace="lab"), AbstractAsyncCustomObjectApi)
