"""The kinds of objects that the server knows: those that are built in, and those that CRDs add."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KindInfo:
    """A kind of objects."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    """It has a status subresource."""
    schema: dict[str, Any] | None = field(default=None, compare=False)
    """OpenAPI schema of a custom resource; None for built-in kinds, which are taken as they come."""
    selectable: frozenset[str] = frozenset()
    crd: str = ""
    """Name of the definition; empty for built-in kinds."""

    @property
    def id(self) -> tuple[str, str]:
        """What identifies it."""
        return self.group, self.plural

    @property
    def full_name(self) -> str:
        """Its name in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


def _core(*names: tuple[str, str, bool, bool]) -> list[KindInfo]:
    return [KindInfo("", "v1", plural, kind, namespaced, status) for plural, kind, namespaced, status in names]


BUILT_IN = (
    *_core(
        ("namespaces", "Namespace", False, True),
        ("secrets", "Secret", True, False),
        ("configmaps", "ConfigMap", True, False),
        ("services", "Service", True, True),
        ("serviceaccounts", "ServiceAccount", True, False),
        ("pods", "Pod", True, True),
        ("events", "Event", True, False),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True, True),
    ),
    KindInfo("apps", "v1", "deployments", "Deployment", True, True),
    KindInfo("apps", "v1", "statefulsets", "StatefulSet", True, True),
    KindInfo("batch", "v1", "jobs", "Job", True, True),
    KindInfo("coordination.k8s.io", "v1", "leases", "Lease"),
    KindInfo("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    KindInfo("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    KindInfo("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False),
    KindInfo("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    KindInfo("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    KindInfo("networking.k8s.io", "v1", "ingresses", "Ingress", True, True),
    KindInfo("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, True),
    KindInfo("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True, True),
    KindInfo("events.k8s.io", "v1", "events", "Event"),
    KindInfo("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, True),
)

CRD_ID = ("apiextensions.k8s.io", "customresourcedefinitions")


def from_definition(definition: dict[str, Any]) -> list[KindInfo]:
    """Return the kinds that a CRD adds, one for each version that is served."""
    spec = definition["spec"]
    names = spec["names"]
    return [
        KindInfo(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec.get("scope") == "Namespaced",
            status="status" in (version.get("subresources") or {}),
            schema=(version.get("schema") or {}).get("openAPIV3Schema") or {},
            selectable=frozenset(item["jsonPath"].lstrip(".") for item in version.get("selectableFields") or ()),
            crd=definition["metadata"]["name"],
        )
        for version in spec["versions"]
        if version.get("served")
    ]
