"""Jumpstarter's objects on Kubernetes; what is imported from here is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clients import (
        ClientsV1Alpha1Api,
        V1Alpha1Client,
        V1Alpha1ClientList,
        V1Alpha1ClientStatus,
    )
    from .controller import get_latest_compatible_controller_version
    from .exporters import (
        ExportersV1Alpha1Api,
        V1Alpha1Exporter,
        V1Alpha1ExporterDevice,
        V1Alpha1ExporterList,
        V1Alpha1ExporterStatus,
    )
    from .install import helm_installed, install_helm_chart
    from .leases import (
        LeasesV1Alpha1Api,
        V1Alpha1Lease,
        V1Alpha1LeaseList,
        V1Alpha1LeaseSelector,
        V1Alpha1LeaseSpec,
        V1Alpha1LeaseStatus,
    )
    from .list import V1Alpha1List
    from .policies import (
        ExporterAccessPoliciesV1Alpha1Api,
        V1Alpha1ExporterAccessPolicy,
        V1Alpha1ExporterAccessPolicyList,
        V1Alpha1ExporterAccessPolicySpec,
    )

__all__ = [
    "ClientsV1Alpha1Api",
    "ExporterAccessPoliciesV1Alpha1Api",
    "ExportersV1Alpha1Api",
    "LeasesV1Alpha1Api",
    "V1Alpha1Client",
    "V1Alpha1ClientList",
    "V1Alpha1ClientStatus",
    "V1Alpha1Exporter",
    "V1Alpha1ExporterAccessPolicy",
    "V1Alpha1ExporterAccessPolicyList",
    "V1Alpha1ExporterAccessPolicySpec",
    "V1Alpha1ExporterDevice",
    "V1Alpha1ExporterList",
    "V1Alpha1ExporterStatus",
    "V1Alpha1Lease",
    "V1Alpha1LeaseList",
    "V1Alpha1LeaseSelector",
    "V1Alpha1LeaseSpec",
    "V1Alpha1LeaseStatus",
    "V1Alpha1List",
    "get_latest_compatible_controller_version",
    "helm_installed",
    "install_helm_chart",
]


def _module_of(name: str) -> str:
    if name in ("helm_installed", "install_helm_chart"):
        return "install"
    if name == "get_latest_compatible_controller_version":
        return "controller"
    for part, module in (("ExporterAccess", "policies"), ("Client", "clients"), ("Exporter", "exporters")):
        if part in name:
            return module
    return "leases" if "Lease" in name else "list"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kubernetes' client library, which these stand on, takes a second or more.
    value = getattr(import_module(f".{_module_of(name)}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
