"""Manifests: what an API server takes, what the pods understand, and no more rights and ways in than are needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from .manifests import CONTROLLERS, KINDS, Values, controller_config, crds, render, router_config

NEWEST, OLDEST = "1.37", "1.27"
"""Of Kubernetes; the schemas of releases before that are not shipped any more."""

EXAMPLES = Path(__file__).parents[3] / "deploy" / "kubernetes"

WAYS_IN = {"ingress": "Ingress", "route": "Route", "gateway": "TLSRoute"}
FOREIGN = {"Route", "TLSRoute", "ServiceMonitor"}
"""Kinds that are no part of Kubernetes, so there is no schema of them."""


def values(mode: str = "nodeport", **changes: Any) -> Values:
    given = {
        "mode": mode,
        "endpoint": "grpc.lab.example.com:443",
        "routerEndpoint": "router-$(replica).lab.example.com:443",
        "gateway": "infra/outside",
        "image": "registry.example.com/jumpstarter:1",
    }
    return Values.model_validate(given | changes)


def found(items: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (item,) = (each for each in items if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return item


def pods(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item["spec"]["template"]["spec"] for item in items if item["kind"] == "Deployment"]


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("mode", ["nodeport", "ingress", "route", "gateway"])
def test_every_object_fits_the_schema_of_its_kind(mode: str, release: str) -> None:
    full = values(
        mode,
        serviceMonitor=True,
        metricsNamespace="monitoring",
        imagePullSecrets=["pull"],
        nodeSelector={"kubernetes.io/arch": "arm64"},
        tolerations=[{"key": "lab", "operator": "Exists"}],
        ingressClass="nginx",
    )
    checked = 0
    for item in [*render(full), *render(values(mode))]:
        assert (item["apiVersion"], item["kind"]) in KINDS
        if item["kind"] not in FOREIGN:
            kubernetes_validate.validate(item, release, strict=True)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("mode", ["ingress", "route", "gateway"])
def test_each_service_that_peers_dial_has_a_way_in_with_a_host_of_its_own(mode: str) -> None:
    items = render(values(mode, routers=3))
    ways = [item for item in items if item["kind"] == WAYS_IN[mode]]
    hosts = set(re.findall(r"[a-z0-9-]+\.lab\.example\.com", json.dumps(ways)))
    assert hosts == {f"{name}.lab.example.com" for name in ("grpc", "login", "router-0", "router-1", "router-2")}
    services = {item["metadata"]["name"] for item in items if item["kind"] == "Service"}
    assert {item["metadata"]["name"] for item in ways} == services - {CONTROLLERS}
    assert all(
        item["spec"].get("type") == "ClusterIP"
        for item in items
        if item["kind"] == "Service" and item["metadata"]["name"] != CONTROLLERS
    )


def test_node_ports_are_what_peers_are_told_to_dial() -> None:
    items = render(values(endpoint="grpc.lab:30010", routerEndpoint="router.lab:30011", routers=5))
    for number, port in enumerate((30011, 30012, 30013, 30015, 30016)):
        service = found(items, "Service", f"jumpstarter-router-grpc-{number}")
        assert service["spec"]["ports"][0]["nodePort"] == port
        config = yaml.safe_load(found(items, "ConfigMap", f"jumpstarter-router-{number}")["data"]["router.yaml"])
        assert config["advertise"] == f"router.lab:{port}"
    assert found(items, "Service", "jumpstarter-grpc")["spec"]["ports"][0]["nodePort"] == 30010


def test_controllers_and_routers_understand_their_configs() -> None:
    config = pytest.importorskip("jumpstarter_controller.config_file")
    from jumpstarter.config.router import RouterConfigV1Alpha1

    given = values(config={"tokens": {"life": "30d"}, "provisioning": True})
    built = config.ControllerConfig.model_validate(controller_config(given))
    assert (built.store, built.namespace, built.router.listen) == ("kubernetes", "jumpstarter-lab", "none")
    assert built.tokens.life.days == 30
    assert built.kubernetes.routers == ("0", "1")

    router = router_config(given, 1)
    # The file is in the pod.
    joined = RouterConfigV1Alpha1.model_validate(router | {"tls": {}})
    assert joined.every_address
    assert joined.metadata.name == "1"
    assert joined.endpoint.rpartition(":")[0] in built.names


def test_a_change_of_the_config_starts_new_pods() -> None:
    def notes(given: Values) -> Any:
        deployment = found(render(given), "Deployment", "jumpstarter-controller")
        return deployment["spec"]["template"]["metadata"]["annotations"]

    assert notes(values()) == notes(values())
    assert notes(values()) != notes(values(config={"tokens": {"life": "30d"}}))


def test_pods_may_do_as_little_as_is_possible() -> None:
    for spec in pods(render(values())):
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]


def test_routers_have_no_rights_and_no_token_of_the_cluster() -> None:
    items = render(values())
    router = found(items, "Deployment", "jumpstarter-router-0")["spec"]["template"]["spec"]
    assert router["automountServiceAccountToken"] is False
    subjects = [subject["name"] for item in items if item["kind"] == "RoleBinding" for subject in item["subjects"]]
    assert router["serviceAccountName"] not in subjects
    policy = found(items, "NetworkPolicy", "jumpstarter-router")
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53, 8082}


def test_rights_are_of_the_namespace_and_name_all_they_allow() -> None:
    items = render(values())
    assert not [item for item in items if item["kind"].startswith("ClusterRole")]
    role = found(items, "Role", "jumpstarter-controller")
    assert "*" not in json.dumps(role["rules"])


def test_there_is_no_moment_without_a_controller_and_never_two_pods_of_a_router() -> None:
    items = render(values())
    controller = found(items, "Deployment", "jumpstarter-controller")["spec"]
    assert controller["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert controller["replicas"] == 2
    router = found(items, "Deployment", "jumpstarter-router-1")["spec"]
    assert (router["strategy"]["type"], router["replicas"]) == ("Recreate", 1)
    drains = yaml.safe_load(found(items, "ConfigMap", "jumpstarter-router-1")["data"]["router.yaml"])["drain"]
    assert router["template"]["spec"]["terminationGracePeriodSeconds"] > drains


def test_keys_of_the_config_map_that_published_programs_read_are_left_alone() -> None:
    assert set(found(render(values()), "ConfigMap", "jumpstarter-controller")["data"]) == {"lab.yaml"}


def test_values_can_not_become_other_parts_of_an_object() -> None:
    odd = "x\n      hostNetwork: true\n# ${namespace}"
    container = pods(render(values(image=odd)))[0]["containers"][0]
    assert container["image"] == odd


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"routerEndpoint": "router.lab.example.com:443", "mode": "ingress"}, "need a host each"),
        ({"routerEndpoint": "grpc.lab.example.com:444"}, "can't have the host of the controller"),
        ({"endpoint": "grpc.lab.example.com"}, "not of the form host:port"),
        ({"endpoint": "grpc.lab.example.com:0"}, "not of the form host:port"),
        ({"mode": "gateway", "gateway": ""}, "needs the Gateway"),
        ({"gateway": "outside"}, "NAMESPACE/NAME"),
        ({"namespace": "Lab"}, "can't be the name of a namespace"),
        ({"config": {"listen": "0.0.0.0:1"}}, "listen follow from other values"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"routerEndpoint": "router.lab:65535"}, "no port 65536"),
        ({"replica": 3}, "Extra inputs"),
    ],
)
def test_what_can_not_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        values(**changes)


@pytest.mark.parametrize("names", [["ingress"], ["openshift"], ["gateway"], ["ingress", "large"]], ids=" ".join)
def test_the_examples_are_values_that_work(names: list[str]) -> None:
    config = pytest.importorskip("jumpstarter_controller.config_file")
    merged: dict[str, Any] = {}
    for name in names:
        merged |= yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    given = Values.model_validate(merged)
    assert len(render(given)) > 20
    config.ControllerConfig.model_validate(controller_config(given))


def test_kinds_fit_the_schema_of_definitions() -> None:
    for item in crds():
        kubernetes_validate.validate(item, NEWEST, strict=True)


async def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Any) -> None:
    testing = pytest.importorskip("jumpstarter_controller.testing")
    from jumpstarter_controller.server import Endpoints
    from jumpstarter_controller.web.metrics import LabMetrics
    from prometheus_client import generate_latest

    text = found(render(values()), "ConfigMap", "jumpstarter-dashboard")["data"]["jumpstarter.json"]
    asked = set(re.findall(r"\b(?:jumpstarter|process)_[a-z_]+(?=\{|\\?\[)", text))
    assert len(asked) > 10
    made: list[LabMetrics] = []
    remember = LabMetrics.__init__

    def noted(self: LabMetrics, *args: Any) -> None:
        remember(self, *args)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabMetrics, "__init__", noted)
        endpoints = Endpoints(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
        async with testing.running_lab(tmp_path, server={"endpoints": endpoints}) as lab:
            await lab.exporter("board")
            names = set(re.findall(r"^(\w+)", generate_latest(made[0].registry).decode(), re.MULTILINE))
    assert asked <= names
