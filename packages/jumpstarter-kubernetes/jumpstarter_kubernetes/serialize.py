"""Objects of the Kubernetes client library in records: how they are read from mappings and dumped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from kubernetes_asyncio.client import V1Condition, V1ObjectMeta, V1ObjectReference
from pydantic import SerializationInfo, SerializerFunctionWrapHandler, WrapSerializer


def k8s_obj_to_dict(value: Any, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
    """Return the fields of an object that hold something, by their names in Kubernetes."""
    return {key: field for key, field in value.to_dict(serialize=True).items() if field is not None}


SerializeV1Condition = Annotated[V1Condition, WrapSerializer(k8s_obj_to_dict)]
SerializeV1ObjectMeta = Annotated[V1ObjectMeta, WrapSerializer(k8s_obj_to_dict)]
SerializeV1ObjectReference = Annotated[V1ObjectReference, WrapSerializer(k8s_obj_to_dict)]


def metadata(item: Mapping[str, Any], *, managed_fields: bool = False) -> V1ObjectMeta:
    """Return the metadata of an object; what it lacks is None.

    Raises:
        KeyError: there is none, or no name in it.
    """
    meta = item["metadata"]
    return V1ObjectMeta(
        creation_timestamp=meta.get("creationTimestamp"),
        generation=meta.get("generation"),
        labels=meta.get("labels") or None,
        managed_fields=meta.get("managedFields") if managed_fields else None,
        name=meta["name"],
        namespace=meta.get("namespace"),
        resource_version=meta.get("resourceVersion"),
        uid=meta.get("uid"),
    )


def reference(value: Mapping[str, Any] | None) -> V1ObjectReference | None:
    """Return a reference to another object; None where there is none."""
    return V1ObjectReference(name=value["name"]) if value and value.get("name") else None


def conditions(values: Any) -> list[V1Condition]:
    """Return conditions in their order; what one lacks is empty."""
    return [_condition(value) for value in values or ()]


def _condition(value: Mapping[str, Any]) -> V1Condition:
    return V1Condition(
        last_transition_time=value.get("lastTransitionTime", ""),
        message=value.get("message", ""),
        observed_generation=value.get("observedGeneration"),
        reason=value.get("reason", ""),
        status=value.get("status", ""),
        type=value.get("type", ""),
    )
