"""The kinds of Kubernetes objects that a lab consists of and stands on."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

GROUP = "jumpstarter.dev"
"""API group of the lab's own kinds."""

VERSION = "v1alpha1"


@dataclass(frozen=True)
class Resource:
    """A kind of objects, and where the API server has them."""

    group: str
    """API group; empty for the core."""
    version: str
    plural: str
    """Name in paths, in the plural."""
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The `apiVersion` of an object."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """The name that `kubectl get` takes, such as `leases.jumpstarter.dev`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Return the path of a collection, of an object, or of a part of an object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return root + place + "".join(f"/{quote(part, safe='')}" for part in (self.plural, name, subresource) if part)


CLIENTS = Resource(GROUP, VERSION, "clients", "Client")
EXPORTERS = Resource(GROUP, VERSION, "exporters", "Exporter")
LEASES = Resource(GROUP, VERSION, "leases", "Lease")
POLICIES = Resource(GROUP, VERSION, "exporteraccesspolicies", "ExporterAccessPolicy")

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
COORDINATION_LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
TLS_ROUTES = tuple(
    Resource("gateway.networking.k8s.io", version, "tlsroutes", "TLSRoute")
    for version in ("v1", "v1alpha3", "v1alpha2")
)
"""Of the Gateway API, the newest version first."""
ROUTES = Resource("route.openshift.io", "v1", "routes", "Route")
SERVICE_MONITORS = Resource("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
