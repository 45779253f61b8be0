"""The objects that an installation consists of, rendered from one set of values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from . import resources
from .resources import Resource

Object = dict[str, Any]

Mode = Literal["nodeport", "ingress", "route", "gateway"]
"""How peers reach the services: by ports of the nodes, an ingress controller, routes of OpenShift, or a gateway."""

CRD_NAMES = ("clients", "exporters", "leases", "exporteraccesspolicies")

REPLICA = "$(replica)"
"""Stands for the number of a router in its endpoint."""

MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "jumpstarter"
"""Value of `MANAGED_LABEL`, and the field manager, of what is installed from here."""

GRPC_NODE_PORT = 30010
ROUTER_NODE_PORT = 30011
"""Of the first router; the others have the next ones."""
WEB_NODE_PORT = 30014

CONTROLLERS = "jumpstarter-controllers"
"""The service behind which routers find every controller."""

KINDS: Mapping[tuple[str, str], Resource] = {
    (resource.api_version, resource.kind): resource
    for resource in (
        resources.NAMESPACES,
        resources.SERVICE_ACCOUNTS,
        resources.ROLES,
        resources.ROLE_BINDINGS,
        resources.CONFIG_MAPS,
        resources.SERVICES,
        resources.DEPLOYMENTS,
        resources.DISRUPTION_BUDGETS,
        resources.NETWORK_POLICIES,
        resources.INGRESSES,
        resources.ROUTES,
        *resources.TLS_ROUTES,
        resources.SERVICE_MONITORS,
        resources.CRDS,
    )
}
"""The kinds of the objects here, by `apiVersion` and `kind`."""

_ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def _endpoint(value: str) -> str:
    found = _ENDPOINT.fullmatch(value.replace(REPLICA, "0"))
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{value!r} is not of the form host:port, such as grpc.lab.example.com:443")
    return value


def _gateway(value: str) -> str:
    if value and not re.fullmatch(r"[-a-z0-9.]+/[-a-z0-9.]+(/[-a-z0-9.]+)?", value):
        raise ValueError(f"{value!r} is not of the form NAMESPACE/NAME, or NAMESPACE/NAME/LISTENER")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError(f"{value!r} can't be the name of a namespace: small letters, digits and '-', at most 63")
    return value


Endpoint = Annotated[str, AfterValidator(_endpoint)]


def default_image() -> str:
    """Return the image that `deploy/Containerfile` makes of this release, by the name that its docs give it."""
    return f"jumpstarter:{version('jumpstarter-kubernetes')}"


class Values(BaseModel):
    """What an installation is like; in files the keys are written in camelCase."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, alias_generator=to_camel)

    namespace: Annotated[str, AfterValidator(_name)] = "jumpstarter-lab"
    image: str = Field(default_factory=default_image, min_length=1)
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    mode: Mode = "nodeport"
    endpoint: Endpoint
    """What peers dial, `host:port`."""
    router_endpoint: Endpoint
    """What they dial for streams; `$(replica)` stands for the number of the router.

    With node ports it may be left out: then the further routers have the ports after that of the first.
    """
    web_host: str = ""
    """What people open; empty for that of the endpoint with `login` in the place of its first part."""
    replicas: int = Field(default=2, ge=1, le=20)
    """Controllers; with two or more nothing is lost when one dies."""
    routers: int = Field(default=2, ge=1, le=50)
    ingress_class: str = ""
    """Empty for that of the cluster."""
    gateway: Annotated[str, AfterValidator(_gateway)] = ""
    """`NAMESPACE/NAME` of the Gateway, and `/LISTENER` if it has several."""
    tls_route_version: str = resources.TLS_ROUTES[0].version
    metrics: bool = True
    """Serve metrics to Prometheus, with a dashboard for Grafana."""
    service_monitor: bool = False
    """Add a ServiceMonitor, for clusters with the Prometheus operator."""
    metrics_namespace: str = ""
    """The only namespace that may read metrics; empty for all."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    controller_resources: dict[str, Any] = Field(
        default_factory=lambda: {
            "requests": {"cpu": "200m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        }
    )
    router_resources: dict[str, Any] = Field(
        default_factory=lambda: {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        }
    )
    config: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the controllers' config: tokens, leases, audit, jwt, provisioning."""

    @model_validator(mode="after")
    def _fits(self) -> Values:
        hosts = [_host(self.router_at(number)) for number in range(self.routers)]
        if _host(self.endpoint) in hosts:
            raise ValueError(
                f"the routers can't have the host of the controller, {_host(self.endpoint)}: certificates tell them"
                " apart by it; give them a name of their own (routerEndpoint)"
            )
        if self.mode != "nodeport" and len(set(hosts)) < self.routers:
            raise ValueError(
                f"the {self.routers} routers need a host each: write {REPLICA} into routerEndpoint, such as "
                f"router-{REPLICA}.lab.example.com:443"
            )
        if self.mode == "gateway" and not self.gateway:
            raise ValueError("the mode gateway needs the Gateway, as NAMESPACE/NAME (gateway)")
        last = _port(self.router_at(self.routers - 1))
        if last > 65535:
            raise ValueError(f"there is no port {last} for the last router")
        own = sorted(self.config.keys() & _OWN_KEYS)
        if own:
            raise ValueError(f"config: {', '.join(own)} follow from other values, or from how the pods are made")
        return self

    def router_at(self, number: int) -> str:
        """Return the endpoint of a router, counted from 0."""
        if REPLICA in self.router_endpoint:
            return self.router_endpoint.replace(REPLICA, str(number))
        if self.mode != "nodeport" or not number:
            return self.router_endpoint
        base, skipped = _port(self.router_endpoint), 0
        if base <= WEB_NODE_PORT <= base + number:
            skipped = 1
        return f"{_host(self.router_endpoint)}:{base + number + skipped}"

    @property
    def web_name(self) -> str:
        """The host that people open."""
        return self.web_host or f"login.{_host(self.endpoint).partition('.')[2] or _host(self.endpoint)}"

    @property
    def web_url(self) -> str:
        """What people open."""
        return f"https://{self.web_name}" + (f":{WEB_NODE_PORT}" if self.mode == "nodeport" else "")


_OWN_KEYS = {
    *("apiVersion", "kind", "store", "kubernetes", "data", "listen", "endpoint", "names", "router", "routers", "tls"),
    *("web", "metrics", "namespace", "drain"),
}


def crds() -> list[Object]:
    """Return the definitions of the four kinds."""
    return [item for name in CRD_NAMES for item in _documents(f"crds/{name}.yaml")]


def controller_config(values: Values) -> Object:
    """Return the config of the controllers."""
    own: Object = {
        "apiVersion": "jumpstarter.dev/v1alpha1",
        "kind": "ControllerConfig",
        "store": "kubernetes",
        "kubernetes": {"peerListen": "0.0.0.0:8087", "routers": [str(number) for number in range(values.routers)]},
        "namespace": values.namespace,
        "listen": "0.0.0.0:8082",
        "endpoint": values.endpoint,
        "names": [f"{CONTROLLERS}.{values.namespace}.svc"],
        # Both ends of a stream have to come to one router, and can't choose between controllers.
        "router": {"listen": "none"},
        "web": {"listen": "0.0.0.0:8086", "endpoint": values.web_url},
        "metrics": {"listen": "0.0.0.0:8080" if values.metrics else ""},
        "drain": 30,
    }
    return {**own, **values.config}


def router_config(values: Values, number: int) -> Object:
    """Return the config of a router."""
    return {
        "apiVersion": "jumpstarter.dev/v1alpha1",
        "kind": "RouterConfig",
        "metadata": {"namespace": values.namespace, "name": str(number)},
        "endpoint": f"{CONTROLLERS}.{values.namespace}.svc:8082",
        "everyAddress": True,
        "tls": {"ca": "/etc/jumpstarter/ca.crt"},
        "tokenFile": "/etc/jumpstarter/token",
        "listen": "0.0.0.0:8083",
        "advertise": values.router_at(number),
        "drain": 30,
    }


def render(values: Values) -> list[Object]:
    """Return all objects of an installation but the CRDs, in the order in which they are to be made."""
    return [_labelled(item, values) for item in _render(values)]


def _render(values: Values) -> Iterator[Object]:
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": values.namespace}}
    common = _common(values)
    yield from _filled("access", common)
    yield from _filled("controller", common)
    yield from _filled("routers", common)
    for number in range(values.routers):
        text = _yaml(router_config(values, number))
        own = {
            "router": number,
            "routerText": str(number),
            "routerConfig": text,
            "routerConfigHash": _hash(text),
            "routerNodePort": _node_port(values, number),
        }
        yield from _filled("router", {**common, **own})
    if values.mode != "nodeport":
        yield from _ways_in(values, common)
    if values.metrics:
        dashboard = (_folder() / "manifests" / "dashboard.json").read_text(encoding="utf-8")
        yield from _filled("dashboard", {"dashboard": dashboard})
        if values.service_monitor:
            yield from _filled("monitor", common)


def _ways_in(values: Values, common: Mapping[str, Any]) -> Iterator[Object]:
    namespace, _, rest = values.gateway.partition("/")
    name, _, section = rest.partition("/")
    common = {
        **common,
        "ingressClass": values.ingress_class or None,
        "tlsRoute": f"{resources.TLS_ROUTES[0].group}/{values.tls_route_version}",
        "gatewayNamespace": namespace,
        "gatewayName": name,
        "gatewaySection": section or None,
    }
    services = [
        ("jumpstarter-grpc", _host(values.endpoint), "grpc", 8082, "GRPCS"),
        ("jumpstarter-web", values.web_name, "https", 443, "HTTPS"),
    ]
    for number in range(values.routers):
        host = _host(values.router_at(number))
        services.append((f"jumpstarter-router-grpc-{number}", host, "grpc", 8083, "GRPCS"))
    for service, host, port, number, backend in services:
        own = {"service": service, "host": host, "port": port, "servicePort": number, "backend": backend}
        yield from _filled(values.mode, {**common, **own})


def _common(values: Values) -> dict[str, Any]:
    config = _yaml(controller_config(values))
    nodes = values.mode == "nodeport"
    return {
        "namespace": values.namespace,
        "config": config,
        "configHash": _hash(config),
        "replicas": values.replicas,
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "imagePullSecrets": [{"name": name} for name in values.image_pull_secrets] or None,
        "nodeSelector": dict(values.node_selector) or None,
        "tolerations": [dict(each) for each in values.tolerations] or None,
        "controllerResources": values.controller_resources,
        "routerResources": values.router_resources,
        "serviceType": "NodePort" if nodes else "ClusterIP",
        "grpcNodePort": GRPC_NODE_PORT if nodes else None,
        "webNodePort": WEB_NODE_PORT if nodes else None,
        "metricsNamespace": (
            {"kubernetes.io/metadata.name": values.metrics_namespace} if values.metrics_namespace else None
        ),
    }


def _node_port(values: Values, number: int) -> int | None:
    """Return the node port of a router: the one that peers dial, unless a port of the host is mapped to it."""
    if values.mode != "nodeport":
        return None
    port = ROUTER_NODE_PORT + number
    return port + 1 if port >= WEB_NODE_PORT else port


def _labelled(item: Object, values: Values) -> Object:
    meta = item["metadata"]
    own = {"app.kubernetes.io/name": "jumpstarter", "app.kubernetes.io/part-of": "jumpstarter", MANAGED_LABEL: MANAGER}
    meta["labels"] = {**own, **meta.get("labels", {})}
    if KINDS[item["apiVersion"], item["kind"]].namespaced:
        meta["namespace"] = values.namespace
    return item


# -- templates -------------------------------------------------------------------------------------


def _folder() -> Any:
    return files(__package__) / "data"


def _documents(path: str) -> list[Object]:
    import yaml

    return list(yaml.safe_load_all((_folder() / path).read_text(encoding="utf-8")))


def _filled(name: str, values: Mapping[str, Any]) -> Iterator[Object]:
    """Return the objects of a template. Values are put in after it is parsed, so none can change what it is."""
    for item in _documents(f"manifests/{name}.yaml"):
        yield _fill(item, values)


def _fill(part: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(part, dict):
        filled = {key: _fill(value, values) for key, value in part.items()}
        return {key: value for key, value in filled.items() if value is not None}
    if isinstance(part, list):
        return [_fill(value, values) for value in part]
    if not isinstance(part, str):
        return part
    if (whole := _PLACEHOLDER.fullmatch(part)) is not None:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), part)


def _yaml(value: Object) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].lower()


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])
