"""Installing into a cluster: everything is there and ready, nobody else's things are touched, and all can be undone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.machines import machines

from .cluster import Cluster
from .exceptions import ClusterError, NotFound
from .installing import Change, Installation, InstallError, managed, uninstall
from .manifests import Values, render
from .resources import (
    CLIENTS,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    EXPORTERS,
    INGRESSES,
    NAMESPACES,
    PODS,
    ROUTES,
    SECRETS,
    SERVICES,
    TLS_ROUTES,
)

LAB = "lab"


def values(**changes: Any) -> Values:
    given = {
        "namespace": LAB,
        "endpoint": "grpc.lab.example.com:30010",
        "routerEndpoint": "router-$(replica).lab.example.com:30011",
        "image": "jumpstarter:1",
    }
    return Values.model_validate(given | changes)


@pytest.fixture
async def cluster(own_kube: Kube) -> AsyncGenerator[Cluster, None]:
    async with own_kube.cluster(LAB) as cluster:
        yield cluster


async def install(cluster: Cluster, given: Values | None = None, **options: Any) -> list[Change]:
    force, timeout = options.pop("force", False), options.pop("timeout", 30)
    installation = await Installation.fitting(cluster, given or values(), force=force, interval=0.05, **options)
    return await installation.install(timeout=timeout)


async def plan(cluster: Cluster, given: Values | None = None, **options: Any) -> dict[str, Change]:
    changes = await (await Installation.fitting(cluster, given or values(), **options)).plan()
    return {str(change): change for change in changes}


async def names(cluster: Cluster, resource: Any) -> set[str]:
    return {item["metadata"]["name"] for item in (await cluster.list(resource, namespace=LAB)).items}


async def test_an_empty_cluster_has_everything_afterwards_and_routers_come_one_after_the_other(
    cluster: Cluster,
) -> None:
    told: list[str] = []
    for name in ("clients", "exporters", "leases", "exporteraccesspolicies"):
        await cluster.delete(CRDS, f"{name}.jumpstarter.dev")
    async with machines(cluster) as ready:
        await install(cluster, tell=told.append)
    assert ready == ["jumpstarter-controller", "jumpstarter-router-0", "jumpstarter-router-1"]
    assert {item["metadata"]["name"] for item in render(values()) if item["kind"] == "Service"} == await names(
        cluster, SERVICES
    )
    assert (await cluster.list(EXPORTERS)).items == []
    assert "jumpstarter-controller: 2 of 2 ready" in told
    # Nothing is left to do.
    assert {change.verb for change in (await plan(cluster)).values()} == {"keep"}


async def test_a_dry_run_changes_nothing_and_tells_what_would_be_made(cluster: Cluster) -> None:
    changes = await plan(cluster)
    assert changes["Deployment jumpstarter-controller"].verb == "create"
    with pytest.raises(NotFound):
        await cluster.get(NAMESPACES, LAB)


async def test_a_dry_run_shows_the_lines_that_would_change(cluster: Cluster) -> None:
    async with machines(cluster):
        await install(cluster)
    changes = await plan(cluster, values(replicas=3, config={"tokens": {"life": "30d"}}))
    changed = {name: change.text for name, change in changes.items() if change.verb != "keep"}
    assert set(changed) == {"Deployment jumpstarter-controller", "ConfigMap jumpstarter-controller"}
    lines = changed["Deployment jumpstarter-controller"].splitlines()
    assert "-  replicas: 2" in lines
    assert "+  replicas: 3" in lines
    assert any(line.strip("+ ") == "life: 30d" for line in changed["ConfigMap jumpstarter-controller"].splitlines())
    assert "managedFields" not in "".join(changed.values())


async def test_what_an_interrupted_run_has_left_out_is_made_by_the_next_one(own_kube: Kube, cluster: Cluster) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(line: str) -> None:
        if line == "Role jumpstarter-controller is there":
            raise Interrupted

    with pytest.raises(Interrupted):
        await install(cluster, tell=interrupt)
    assert await names(cluster, DEPLOYMENTS) == set()
    async with machines(cluster):
        await install(cluster)
    assert {change.verb for change in (await plan(cluster)).values()} == {"keep"}


async def test_pods_that_do_not_start_are_told_of_with_their_reason(own_kube: Kube, cluster: Cluster) -> None:
    own_kube.namespace(LAB)
    labels = {"app.kubernetes.io/name": "jumpstarter", "app.kubernetes.io/component": "controller"}
    pod = await cluster.create(PODS, {"metadata": {"name": "one", "labels": labels}, "spec": {}})
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pod["status"] = {"containerStatuses": [{"name": "controller", "state": {"waiting": waiting}}]}
    await cluster.replace(PODS, pod, status=True)
    told: list[str] = []
    with pytest.raises(InstallError) as failure:
        await install(cluster, timeout=0.5, tell=told.append)
    for text in ("after 0.5 s", "0 of 2 ready", "ImagePullBackOff: no such image", "goes on with what is missing"):
        assert text in str(failure.value)
    assert "jumpstarter-controller: 0 of 2 ready, ImagePullBackOff: no such image" in told


async def test_routers_are_not_touched_while_controllers_are_not_ready(cluster: Cluster) -> None:
    with pytest.raises(InstallError):
        await install(cluster, timeout=0.3)
    assert await names(cluster, DEPLOYMENTS) == {"jumpstarter-controller"}


async def test_a_kind_of_an_older_release_gets_its_new_fields(cluster: Cluster) -> None:
    name = "exporters.jumpstarter.dev"
    definition = await cluster.get(CRDS, name)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["enabled"]
    await cluster.replace(CRDS, definition)
    changes = await plan(cluster)
    assert changes[f"CustomResourceDefinition {name}"].verb in ("change", "conflict")
    async with machines(cluster):
        await install(cluster, force=True)
    await cluster.create(EXPORTERS, {"metadata": {"name": "board"}, "spec": {"enabled": False}})
    assert (await cluster.get(EXPORTERS, "board"))["spec"] == {"enabled": False}


async def test_fields_of_another_manager_are_taken_only_when_told_to(cluster: Cluster) -> None:
    async with machines(cluster):
        await install(cluster)
        scaled = {"metadata": {"name": "jumpstarter-controller", "namespace": LAB}, "spec": {"replicas": 7}}
        await cluster.apply(DEPLOYMENTS, scaled, manager="autoscaler", force=True)
        with pytest.raises(InstallError) as failure:
            await install(cluster, values(image="jumpstarter:2"))
        for text in (
            "nothing was changed",
            "Deployment jumpstarter-controller",
            ".spec.replicas",
            "autoscaler",
            "--force",
        ):
            assert text in str(failure.value)
        router = await cluster.get(DEPLOYMENTS, "jumpstarter-router-0")
        assert router["spec"]["template"]["spec"]["containers"][0]["image"] == "jumpstarter:1"
        await install(cluster, values(image="jumpstarter:2"), force=True)
    controller = await cluster.get(DEPLOYMENTS, "jumpstarter-controller")
    assert controller["spec"]["replicas"] == 2


async def test_a_deployment_of_the_published_operator_is_replaced_only_when_told_to(
    own_kube: Kube, cluster: Cluster
) -> None:
    own_kube.namespace(LAB)
    template = {"metadata": {"labels": {"app": "jumpstarter"}}, "spec": {"containers": [{"name": "manager"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "jumpstarter"}}, "template": template}
    await cluster.create(DEPLOYMENTS, {"metadata": {"name": "jumpstarter-controller"}, "spec": spec})
    published = {"metadata": {"name": "jumpstarter-controller"}, "data": {"config": "{}", "router": "{}"}}
    await cluster.create(CONFIG_MAPS, published)
    await cluster.create(CLIENTS, {"metadata": {"name": "alice"}, "spec": {}})
    async with machines(cluster):
        with pytest.raises(InstallError, match="selector is another one"):
            await install(cluster)
        await install(cluster, force=True)
    deployment = await cluster.get(DEPLOYMENTS, "jumpstarter-controller")
    assert [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"]] == ["controller"]
    kept = (await cluster.get(CONFIG_MAPS, "jumpstarter-controller"))["data"]
    assert (kept["config"], kept["router"]) == ("{}", "{}")
    assert (await cluster.get(CLIENTS, "alice"))["metadata"]["name"] == "alice"


async def test_what_is_not_needed_any_more_goes(cluster: Cluster) -> None:
    async with machines(cluster):
        await install(cluster, values(mode="ingress", routers=3))
        assert len(await names(cluster, INGRESSES)) == 5
        changes = await plan(cluster, values(routers=1, metrics=False))
        assert changes["Deployment jumpstarter-router-2"].verb == "delete"
        await install(cluster, values(routers=1, metrics=False))
    assert await names(cluster, INGRESSES) == set()
    assert await names(cluster, DEPLOYMENTS) == {"jumpstarter-controller", "jumpstarter-router-0"}
    assert "jumpstarter-dashboard" not in await names(cluster, CONFIG_MAPS)


@pytest.mark.parametrize(("mode", "told"), [("route", "not OpenShift"), ("gateway", "Gateway API")])
async def test_a_mode_of_which_the_cluster_lacks_the_kind_is_refused(cluster: Cluster, mode: str, told: str) -> None:
    with pytest.raises(InstallError, match=told):
        await install(cluster, values(mode=mode, gateway="infra/outside"))
    with pytest.raises(NotFound):
        await cluster.get(NAMESPACES, LAB)


def definition(group: str, version: str, plural: str, kind: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


async def test_the_version_of_the_gateway_api_is_that_of_the_cluster(own_kube: Kube, cluster: Cluster) -> None:
    older = TLS_ROUTES[-1]
    await cluster.create(CRDS, definition(older.group, older.version, older.plural, older.kind))
    await cluster.create(CRDS, definition("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor"))
    async with machines(cluster):
        await install(cluster, values(mode="gateway", gateway="infra/outside/tls"))
    route = await cluster.get(older, "jumpstarter-grpc")
    assert route["spec"]["parentRefs"][0]["sectionName"] == "tls"
    found = {resource.kind for resource, _ in await managed(cluster, LAB)}
    assert {"TLSRoute", "ServiceMonitor"} <= found
    await uninstall(cluster, LAB)
    assert await managed(cluster, LAB) == []


async def test_openshift_has_routes(own_kube: Kube, cluster: Cluster) -> None:
    await cluster.create(CRDS, definition(ROUTES.group, ROUTES.version, ROUTES.plural, ROUTES.kind))
    async with machines(cluster):
        await install(cluster, values(mode="route"))
    assert (await cluster.get(ROUTES, "jumpstarter-grpc"))["spec"]["tls"]["termination"] == "passthrough"


async def populated(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, {"metadata": {"name": "alice"}, "spec": {}})
    key = {"metadata": {"name": "jumpstarter-lab-keys", "labels": {"lab.jumpstarter.dev/secret": "true"}}}
    await cluster.create(SECRETS, key)
    await cluster.create(SECRETS, {"metadata": {"name": "somebody-elses"}})


async def test_uninstalling_keeps_what_the_lab_knows_and_what_is_not_ours(cluster: Cluster) -> None:
    async with machines(cluster):
        await install(cluster)
        await populated(cluster)
        await uninstall(cluster, LAB)
        assert await names(cluster, DEPLOYMENTS) == set()
        assert await names(cluster, CLIENTS) == {"alice"}
        assert await names(cluster, SECRETS) == {"jumpstarter-lab-keys", "somebody-elses"}
        await install(cluster)
    assert {change.verb for change in (await plan(cluster)).values()} == {"keep"}


async def test_uninstalling_takes_data_and_kinds_when_told_to(cluster: Cluster) -> None:
    async with machines(cluster):
        await install(cluster)
    await populated(cluster)
    with pytest.raises(InstallError, match="--delete-data"):
        await uninstall(cluster, LAB, delete_crds=True)
    assert await names(cluster, CLIENTS) == {"alice"}
    await uninstall(cluster, LAB, delete_data=True, delete_crds=True)
    assert await names(cluster, SECRETS) == {"somebody-elses"}
    with pytest.raises(NotFound):
        await cluster.list(CLIENTS)


async def test_kinds_that_another_lab_uses_stay(own_kube: Kube, cluster: Cluster) -> None:
    own_kube.namespace("other")
    async with machines(cluster):
        await install(cluster)
    await cluster.create(CLIENTS, {"metadata": {"name": "bob", "namespace": "other"}, "spec": {}})
    with pytest.raises(InstallError, match="other namespaces \\(other\\)"):
        await uninstall(cluster, LAB, delete_data=True, delete_crds=True)
    assert "jumpstarter-controller" in await names(cluster, DEPLOYMENTS)


async def test_who_may_not_install_is_told_what_is_missing(own_kube: Kube, cluster: Cluster) -> None:
    async with own_kube.cluster(LAB, own_kube.token("guest")) as guest:
        with pytest.raises(ClusterError, match="Ask the cluster's administrator for this right"):
            await install(guest)
